"""The proof of the proof: small breakages of the scripts, each of which a test must catch. Run by hand:

    uv run tests/mutants.py                      # all: 652 of 5 to 60 s each on two cores
    uv run tests/mutants.py gluon_hvd tf_keras   # those of some scripts, by what follows mnist_ or mnist_mx_
    uv run tests/mutants.py harness              # those of the harness; or of one of its modules: statistics

Each is applied alone to a copy of the project, where the tests that can see it run. The exit status is 1 if one survives, or no
longer applies because the script's text has changed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 300  # seconds for the tests of one mutant; one that hangs is caught
GLUON = ["gluon", "gluon_mgpu", "gluon_hvd", "gluon_ds", "gluon_ds_mgpu"]
SYM, KERAS, TF = ["sym", "sym_mgpu"], ["keras", "keras_mgpu"], ["tf_keras", "tf_keras_mgpu"]
TORCH = ["torch", "torch_mgpu"]

# scripts, what is replaced, by what, the sentence of the definition that it breaks
WORK = [
    # the model
    (["gluon"], "        nn.Dropout(DROPOUT_CONV),\n", "", "dropout 0.25 after pooling"),
    (["gluon_ds"], "        nn.Dropout(DROPOUT_DENSE),\n", "", "dropout 0.5 before the last layer"),
    (["sym"], "    x = mx.sym.Dropout(x, p=DROPOUT_CONV)\n", "", "dropout 0.25 after pooling"),
    (["keras", "tf_keras"], "        Dropout(DROPOUT_CONV),\n", "", "dropout 0.25 after pooling"),
    (
        ["gluon_mgpu", "gluon_hvd", "sym_mgpu", "keras", "tf_keras_mgpu"],
        "= 0.25, 0.5",
        "= 0.5, 0.25",
        "dropout 0.25, then 0.5",
    ),
    (
        ["gluon_ds_mgpu"],
        "nn.Dropout(DROPOUT_CONV)",
        "nn.Dropout(DROPOUT_CONV, axes=(2, 3))",
        "dropout of single values",
    ),
    (
        ["tf_keras"],
        "Dropout(DROPOUT_CONV)",
        "tf.keras.layers.SpatialDropout2D(DROPOUT_CONV)",
        "dropout of single values",
    ),
    (["gluon_hvd"], "        nn.MaxPool2D(2),\n", "        nn.AvgPool2D(2),\n", "max pooling"),
    (["sym"], 'pool_type="max"', 'pool_type="avg"', "max pooling"),
    (["gluon"], 'activation="relu"),  # flattens', 'activation="sigmoid"),  # flattens', "dense 128, ReLU"),
    (["keras_mgpu"], 'Dense(128, activation="relu"', 'Dense(128, activation="tanh"', "dense 128, ReLU"),
    (["tf_keras_mgpu"], 'Conv2D(64, 3, activation="relu")', "Conv2D(64, 3)", "convolution, ReLU"),
    (["gluon_ds", "sym"], "mx.init.Xavier()", 'mx.init.Xavier(factor_type="in")', "Glorot uniform weights"),
    (["gluon_mgpu"], "mx.init.Xavier()", "mx.init.Normal(0.05)", "Glorot uniform weights"),
    (["keras"], "9 * (1 + 32)", "9 * 1 + 32", "Glorot uniform weights"),
    (
        ["tf_keras"],
        'Dense(128, activation="relu")',
        'Dense(128, activation="relu", kernel_initializer="he_uniform")',
        "Glorot uniform",
    ),
    (
        ["tf_keras_mgpu"],
        'Dense(CLASSES, activation="softmax")',
        'Dense(CLASSES, activation="softmax", bias_initializer="ones")',
        "zero biases",
    ),
    (["keras"], 'Flatten("channels_last")', "Flatten()", "inputs flattened as they lie, so that all start alike"),
    (["torch"], "        nn.Dropout(DROPOUT_CONV),\n", "", "dropout 0.25 after pooling"),
    (["torch_mgpu"], "        nn.Dropout(DROPOUT_DENSE),\n", "", "dropout 0.5 before the last layer"),
    (TORCH, "= 0.25, 0.5", "= 0.5, 0.25", "dropout 0.25, then 0.5"),
    (["torch"], "nn.Dropout(DROPOUT_CONV)", "nn.Dropout2d(DROPOUT_CONV)", "dropout of single values"),
    (["torch_mgpu"], "nn.MaxPool2d(2)", "nn.AvgPool2d(2)", "max pooling"),
    (["torch"], "xavier_uniform_ if", "kaiming_uniform_ if", "Glorot uniform weights"),
    (["torch_mgpu"], "nn.init.zeros_", "nn.init.ones_", "zero biases"),
    # training
    (
        ["gluon", "gluon_ds_mgpu", "gluon_hvd", "keras", "sym_mgpu", "tf_keras"],
        "0.999, 1e-8",
        "0.999, 1e-7",
        "epsilon 1e-8",
    ),
    (["sym", "gluon_ds"], "0.9, 0.999, 1e-8", "0.9, 0.99, 1e-8", "beta2 0.999"),
    (
        ["gluon_mgpu", "gluon_ds_mgpu", "keras_mgpu", "tf_keras_mgpu"],
        "LEARNING_RATE * len(devices)",
        "LEARNING_RATE",
        "linear scaling",
    ),
    (["sym_mgpu"], "LEARNING_RATE * len(devices)", "LEARNING_RATE", "linear scaling"),
    (["gluon_hvd"], "LEARNING_RATE * hvd.size()", "LEARNING_RATE", "linear scaling"),
    (["gluon_mgpu"], ', kvstore="device")', ", kvstore=None)", "gradients are averaged over the devices"),
    (["gluon_hvd"], "hvd.DistributedTrainer(", "gluon.Trainer(", "gradients are averaged over ranks"),
    (["gluon_hvd"], "    hvd.broadcast_parameters(model.collect_params())", "    pass", "all ranks start alike"),
    (["keras_mgpu"], "    adam.rescale_grad = 1 / len(devices)", "    pass", "mean over the global batch"),
    (["gluon", "gluon_ds_mgpu"], "shuffle=True", "shuffle=False", "reshuffled before every epoch"),
    (
        ["sym_mgpu", "gluon_mgpu"],
        "        batches.reset()  # reshuffles\n",
        "        batches.cursor = -batch_size\n",
        "reshuffled before every epoch",
    ),
    (TF, ".shuffle(len(images))", "", "reshuffled before every epoch"),
    (
        ["tf_keras"],
        "shuffle(len(images))",
        "shuffle(len(images), reshuffle_each_iteration=False)",
        "reshuffled before every epoch",
    ),
    (KERAS, "callbacks=[ReportEpoch()])", "callbacks=[ReportEpoch()], shuffle=False)", "reshuffled before every epoch"),
    (["gluon", "sym"], 'last_batch_handle="discard"', 'last_batch_handle="pad"', "training drops a remainder"),
    (["gluon_ds"], 'last_batch="discard"', 'last_batch="keep"', "training drops a remainder"),
    (["keras"], "n = len(images) // batch_size * batch_size", "n = len(images)", "training drops a remainder"),
    (["tf_keras_mgpu"], ", drop_remainder=True", "", "training drops a remainder"),
    (
        ["gluon_mgpu"],
        "    batch_size *= len(devices)  # two devices: weak scaling",
        "    pass  # two devices: weak scaling",
        "batch per device",
    ),
    (["sym_mgpu"], "train_labels, n * args.batch_size)", "train_labels, args.batch_size)", "batch per device"),
    (
        ["gluon_ds", "gluon_ds_mgpu"],
        "to_tensor = gluon.data.vision.transforms.ToTensor()",
        'to_tensor = lambda x: x.transpose((0, 3, 1, 2)).astype("float32") / 256',
        "pixels by / 255",
    ),
    (["gluon", "keras", "tf_keras"], ", 255, dtype", ", 256, dtype", "pixels by / 255"),
    (
        ["gluon_hvd"],
        "images[hvd.rank() :: hvd.size()][:n], labels[hvd.rank() :: hvd.size()][:n]",
        "images[:n], labels[:n]",
        "every size-th image from r",
    ),
    (TORCH, "0.999, 1e-8", "0.999, 1e-7", "epsilon 1e-8"),
    (["torch"], "            adam.zero_grad()\n", "", "Adam on this batch's gradients"),
    (["torch_mgpu"], "LEARNING_RATE * ranks", "LEARNING_RATE", "linear scaling"),
    (["torch_mgpu"], "replica(images[batch])", "model(images[batch])", "gradients are averaged over ranks"),
    (["torch_mgpu"], "Parallel(model, ", "Parallel(model, init_sync=False, ", "all ranks start alike"),
    (
        ["torch_mgpu"],
        "images[rank::ranks][:n], labels[rank::ranks][:n]",
        "images[:n], labels[:n]",
        "every size-th image",
    ),
    (TORCH, "torch.randperm(", "torch.arange(", "reshuffled before every epoch"),
    (["torch"], ".split(batch_size)[:steps]", ".split(batch_size)", "training drops a remainder"),
    (["torch"], ", 255, dtype", ", 256, dtype", "pixels by / 255"),
    # the epoch's loss
    (["torch"], "loss = loss_sum.item() / steps", "loss = loss.item()", "mean over all batches"),
    (["torch_mgpu"], "        dist.all_reduce(loss_sum)", "        pass", "mean over all ranks"),
    (
        ["gluon", "gluon_hvd"],
        "loss = loss_sum.asscalar() / (len(images) // batch_size)",
        "loss = loss.mean().asscalar()",
        "mean over all batches",
    ),
    (
        ["gluon_ds"],
        "loss = loss_sum.asscalar() / len(batches)",
        "loss = loss.mean().asscalar()",
        "mean over all batches",
    ),
    (
        ["gluon_mgpu", "gluon_ds_mgpu", "sym_mgpu"],
        "np.mean([x.asscalar() for x in loss_sums])",
        "np.sum([x.asscalar() for x in loss_sums])",
        "mean over all devices",
    ),
    (
        ["gluon_mgpu", "sym_mgpu"],
        "np.mean([x.asscalar() for x in loss_sums])",
        "loss_sums[0].asscalar()",
        "mean over all devices",
    ),
    (["gluon_hvd"], '        hvd.allreduce_(loss_sum, name="loss")', "        pass", "mean over all ranks"),
    (
        ["sym"],
        "mx.sym.log_softmax(x)",
        "mx.sym.log_softmax(x, temperature=1.1)",
        "cross-entropy",
    ),
    (KERAS, "{logs['loss']:.4f}", "{logs['loss'] / 2:.4f}", "mean over all batches"),
    (["tf_keras"], "{logs['loss']:.4f}", "{0.5:.4f}", "mean over all batches"),
    # seeds
    (
        ["gluon", "gluon_ds", "gluon_mgpu", "gluon_ds_mgpu", *SYM],
        "    mx.random.seed(args.seed)\n",
        "",
        "every generator is seeded",
    ),
    (["gluon", "sym"], "    np.random.seed(args.seed)\n", "", "every generator is seeded"),
    (["gluon_ds"], "    np.random.seed(args.seed)\n", "    np.random.seed(SEED)\n", "another seed gives others"),
    (KERAS, "    np.random.seed(args.seed)\n", "", "every generator is seeded"),
    (["keras"], "(-x, x, np.random.randint(1, 2**31))", "(-x, x)", "another seed gives other weights"),
    (TF, "    tf.keras.utils.set_random_seed(args.seed)\n", "", "every generator is seeded"),
    (["gluon_hvd"], "args.seed + 1_000_000 * hvd.rank()", "args.seed", "the ranks' seeds differ"),
    (["torch"], "    torch.manual_seed(args.seed)\n", "", "every generator is seeded"),
    (["torch_mgpu"], "args.seed + 1_000_000 * rank", "args.seed", "the ranks' seeds differ"),
    (["torch_mgpu"], "torch.manual_seed(args.seed +", "torch.manual_seed(SEED +", "another seed gives others"),
    # two devices drop apart
    (
        ["tf_keras_mgpu"],
        "        model = tf.keras.Sequential(layers)",
        "        model = tf.keras.Sequential([type(x).from_config(x.get_config()) if isinstance(x, Dropout) else x for x in layers])",
        "masks of its own on every device",
    ),
    # the host and the clock
    (
        ["gluon", "gluon_ds", "gluon_hvd"],
        "loss_sum += loss.mean()",
        "loss_sum += loss.mean().asscalar()",
        "no synchronisation per step",
    ),
    (
        ["gluon_mgpu", "gluon_ds_mgpu"],
        "            with mx.engine.bulk(32):",
        "            mx.nd.waitall()\n            with mx.engine.bulk(32):",
        "no synchronisation per step",
    ),
    (
        SYM,
        "            model.update()\n",
        "            model.update()\n            mx.nd.waitall()\n",
        "no synchronisation per step",
    ),
    (
        ["keras"],
        "    def on_epoch_begin",
        "    def on_batch_end(self, batch, logs=None):\n        mx.nd.waitall()\n\n    def on_epoch_begin",
        "no synchronisation per step",
    ),
    (
        ["tf_keras"],
        "    def on_epoch_begin",
        "    def on_train_batch_end(self, batch, logs=None):\n        self.model.get_layer(index=0).kernel.numpy()\n\n    def on_epoch_begin",
        "no synchronisation per step",
    ),
    (
        ["gluon", "gluon_mgpu", "gluon_hvd"],
        "    model.hybridize(static_alloc=True, static_shape=True)\n",
        "",
        "a hybridized block",
    ),
    (["gluon_ds", "gluon_ds_mgpu"], "(static_alloc=True, static_shape=True)", "()", "static_alloc, static_shape"),
    (["tf_keras_mgpu"], '_crossentropy")', '_crossentropy", run_eagerly=True)', "the framework's own fast path"),
    (
        ["gluon_mgpu", "gluon_hvd"],
        "    loss_function.hybridize(static_alloc=True, static_shape=True)\n",
        "",
        "the loss, too",
    ),
    (
        ["gluon", "sym_mgpu", "keras"],
        "    mx.nd.waitall()\n    return",
        "    return",
        "the clock stops with the device synchronised",
    ),
    (TF, "    tf.test.experimental.sync_devices()\n", "", "the clock stops with the device synchronised"),
    (
        ["gluon_mgpu"],
        "        batches.reset()  # reshuffles\n",
        "        batches.reset()  # reshuffles\n        start = time.perf_counter() if epoch == 0 else start\n        batches.next()\n        batches.reset()\n",
        "a batch before the clock",
    ),
    (
        ["gluon", "gluon_hvd"],
        "        epoch_start = time.perf_counter()\n",
        "        epoch_start = time.perf_counter()\n        start = epoch_start\n",
        "the clock starts before the first epoch",
    ),
    (["gluon_hvd"], '    wait_for_all("start")', "    mx.nd.waitall()", "the clock starts past a barrier"),
    (["gluon_hvd"], '    wait_for_all("end")', "    mx.nd.waitall()", "the clock stops past a barrier"),
    (
        ["gluon_hvd"],
        "    mx.nd.waitall()  # the barrier is on the CPU: it would not wait for a GPU\n",
        "",
        "the clock stops when every device is done",
    ),
    (TF, "    tf.data.experimental.enable_debug_mode()\n", "", "autotuning off"),
    (TORCH, "loss_sum += loss.detach()", "loss_sum += loss.item()", "no synchronisation per step"),
    (
        ["torch"],
        "    torch.get_device_module(device).synchronize()\n    return",
        "    return",
        "the clock stops synchronised",
    ),
    (
        ["torch_mgpu"],
        "    dist.barrier()  # two devices: the clock starts",
        "    pass  #",
        "the clock starts past a barrier",
    ),
    (
        ["torch_mgpu"],
        "    dist.barrier()  # two devices: the clock stops",
        "    pass  #",
        "the clock stops past a barrier",
    ),
    (
        TORCH,
        "        epoch_start = time.perf_counter()\n",
        "        start = epoch_start = time.perf_counter()\n",
        "the clock",
    ),
    # evaluation and report
    (TORCH, "    model.eval()\n", "", "dropout acts in training only"),
    (["torch_mgpu"], "    dist.all_reduce(correct)", "    pass", "the ranks' counts are summed"),
    (["torch"], "in images.split(batch_size)]", "in images.split(batch_size)[1:]]", "all test images"),
    (
        ["torch_mgpu"],
        '    if rank == 0:  # two devices: one report\n        print(f"dur',
        '    if 1:\n        print(f"dur',
        "rank 0 reports",
    ),
    (
        ["gluon", "gluon_mgpu"],
        "for i in range(0, len(images), batch_size):",
        "for i in range(0, len(images) - batch_size, batch_size):",
        "all test images",
    ),
    (
        ["gluon_ds", "gluon_ds_mgpu"],
        "DataLoader(dataset, batch_size, batchify_fn=to_batch)",
        'DataLoader(dataset, batch_size, batchify_fn=to_batch, last_batch="discard")',
        "all test images",
    ),
    (
        ["gluon", "gluon_hvd"],
        "        logits = model(",
        "        with autograd.train_mode():\n            logits = model(",
        "dropout acts in training only",
    ),
    (["gluon_hvd"], "op=hvd.Sum, ", "", "the ranks' counts are summed"),
    (
        ["sym", "sym_mgpu"],
        ".argmax(axis=1).asnumpy() == labels)",
        ".argmax(axis=1).asnumpy()[:-3] == labels[:-3])",
        "all test images",
    ),
    (["keras", "tf_keras"], ".argmax(axis=1) == labels)", ".argmax(axis=1)[:-3] == labels[:-3])", "all test images"),
    (
        ["tf_keras_mgpu", "keras_mgpu"],
        "[: len(labels)].argmax(axis=1) == labels)",
        "[1 : len(labels)].argmax(axis=1) == labels[1:])",
        "all test images",
    ),
    (
        ["gluon_hvd"],
        "        if hvd.rank() == 0:  # Horovod: one report\n",
        "        if True:\n",
        "rank 0 alone reports",
    ),
    (["gluon_ds"], ", seed {args.seed}", "", "the seed stands in the first line"),
    (["sym"], "accuracy: {accuracy:.4f}", "accuracy: {accuracy:.3f}", "four digits"),
    (["keras_mgpu"], "seconds:.2f} s\\n", "seconds:.1f} s\\n", "two digits"),
    (["gluon_ds_mgpu"], "batch {n} x", "batch 1 x", "the first line says the batch"),
]
# What a comparison of the scripts' texts would see at once; here the tests that ask for it by behaviour must
EPOCH = "        epoch_start = time.perf_counter()\n"
LATE = "        seconds = time.perf_counter() - epoch_start\n"
RATE = [
    (
        ["gluon", "gluon_ds"],
        EPOCH,
        f"{EPOCH}        trainer.set_learning_rate(LEARNING_RATE / (1 + epoch // 5))\n",
        "one rate",
    ),
    (
        ["gluon_ds_mgpu", "gluon_hvd"],
        "BETA_1, BETA_2, EPSILON)  #",
        "BETA_1, BETA_2, EPSILON, lr_scheduler=mx.lr_scheduler.FactorScheduler(600, 0.5, base_lr=2 * LEARNING_RATE))  #",
        "one rate",
    ),
    (
        ["gluon_mgpu"],
        "BETA_1, BETA_2, EPSILON)  #",
        "BETA_1, BETA_2, EPSILON, lr_scheduler=mx.lr_scheduler.CosineScheduler(9999, 2 * LEARNING_RATE, warmup_steps=9))  #",
        "one rate, with no warm-up",
    ),
    (["gluon", "gluon_hvd"], "BETA_1, BETA_2, EPSILON)", "BETA_1, BETA_2, EPSILON, wd=1e-4)", "no weight decay"),
    (
        ["gluon_ds", "gluon_mgpu"],
        "BETA_1, BETA_2, EPSILON)",
        "BETA_1, BETA_2, EPSILON, clip_gradient=1.0)",
        "no clipping",
    ),
    (
        ["gluon"],
        "            with mx.engine.bulk(32):",
        (
            "            if epoch > 4:\n"
            "                gradients = [p.grad() for p in model.collect_params().values()]\n"
            "                gluon.utils.clip_global_norm(gradients, batch_size, False)\n"
            "            with mx.engine.bulk(32):"
        ),
        "no clipping, not late either",
    ),
    (SYM, '"epsilon": EPSILON}', '"epsilon": EPSILON, "wd": 1e-4}', "no weight decay"),
    (
        SYM,
        '"epsilon": EPSILON}',
        '"epsilon": EPSILON, "lr_scheduler": mx.lr_scheduler.FactorScheduler(1100, 0.5)}',
        "one rate",
    ),
    (KERAS, "BETA_1, BETA_2, EPSILON)", "BETA_1, BETA_2, EPSILON, decay=1e-5)", "one rate"),
    (KERAS, "BETA_1, BETA_2, EPSILON)", "BETA_1, BETA_2, EPSILON, clipnorm=1.0)", "no clipping"),
    (
        ["keras"],
        "callbacks=[ReportEpoch()]",
        "callbacks=[ReportEpoch(), keras.callbacks.LearningRateScheduler(lambda e: LEARNING_RATE * 0.5 ** (e // 5))]",
        "one rate",
    ),
    (
        ["tf_keras"],
        "Adam(LEARNING_RATE,",
        "Adam(tf.keras.optimizers.schedules.PiecewiseConstantDecay([1000], [LEARNING_RATE, LEARNING_RATE / 2]),",
        "one rate",
    ),
    (
        ["tf_keras_mgpu"],
        "Adam(LEARNING_RATE * len(devices),",
        "Adam(tf.keras.optimizers.schedules.CosineDecay(2 * LEARNING_RATE, 10_000),",
        "one rate",
    ),
    (
        ["tf_keras"],
        "callbacks=[ReportEpoch()]",
        "callbacks=[ReportEpoch(), tf.keras.callbacks.LearningRateScheduler(lambda e, rate: rate if e < 7 else rate / 2)]",
        "one rate",
    ),
    (TF, "BETA_1, BETA_2, EPSILON)", "BETA_1, BETA_2, EPSILON, weight_decay=1e-3)", "no weight decay"),
    (TF, "BETA_1, BETA_2, EPSILON)", "BETA_1, BETA_2, EPSILON, global_clipnorm=5.0)", "no clipping"),
    (
        ["torch"],
        EPOCH,
        f'{EPOCH}        adam.param_groups[0]["lr"] = LEARNING_RATE * (0.5 if epoch > 4 else 1)\n',
        "one rate",
    ),
    (
        ["torch_mgpu"],
        "            adam.step()\n",
        ('            adam.step()\n            adam.param_groups[0]["lr"] *= 1 - 1e-5\n'),
        "one rate",
    ),
    (TORCH, "EPSILON, fused", "EPSILON, 1e-4, fused", "no weight decay"),
    (
        TORCH,
        "            adam.step()\n",
        "            nn.utils.clip_grad_norm_(model.parameters(), 5.0)\n            adam.step()\n",
        "no clipping",
    ),
]
EPOCHS = [
    (["gluon", "sym", "torch"], "for epoch in range(epochs):", "for epoch in range(min(epochs, 9)):", "10 epochs"),
    (["gluon_hvd", "keras", "tf_keras", "torch_mgpu"], "EPOCHS = 10", "EPOCHS = 9", "10 epochs"),
    (
        ["tf_keras"],
        "    start = time.perf_counter()\n    model.fit(",
        "    model.fit(dataset, epochs=1, verbose=0)\n    start = time.perf_counter()\n    model.fit(",
        "no epoch before the clock",
    ),
]
CLOCK = [
    (
        ["gluon", "gluon_hvd"],
        f"        loss = loss_sum.asscalar() / (len(images) // batch_size)\n{LATE}",
        f"{LATE}        loss = loss_sum.asscalar() / (len(images) // batch_size)\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["sym"],
        f"        loss = loss_sum.asscalar() / steps\n{LATE}",
        f"{LATE}        loss = loss_sum.asscalar() / steps\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["sym_mgpu"],
        f"        loss = np.mean([x.asscalar() for x in loss_sums]) / steps  # two devices: the mean\n{LATE}",
        f"{LATE}        loss = np.mean([x.asscalar() for x in loss_sums]) / steps  # two devices: the mean\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["gluon_ds"],
        f"        loss = loss_sum.asscalar() / len(batches)\n{LATE}",
        f"{LATE}        loss = loss_sum.asscalar() / len(batches)\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["gluon_ds_mgpu"],
        f"        loss = np.mean([x.asscalar() for x in loss_sums]) / len(batches)  # two devices: the mean\n{LATE}",
        f"{LATE}        loss = np.mean([x.asscalar() for x in loss_sums]) / len(batches)  # two devices: the mean\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["gluon_mgpu"],
        f"        loss = np.mean([x.asscalar() for x in loss_sums]) / (len(images) // batch_size)  # two devices: the mean\n{LATE}",
        f"{LATE}        loss = np.mean([x.asscalar() for x in loss_sums]) / (len(images) // batch_size)  # two devices: the mean\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["torch"],
        f"        loss = loss_sum.item() / steps\n{LATE}",
        f"{LATE}        loss = loss_sum.item() / steps\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["torch_mgpu"],
        f"        loss = loss_sum.item() / ranks / steps\n{LATE}",
        f"{LATE}        loss = loss_sum.item() / ranks / steps\n",
        "an epoch's seconds end when the device is done",
    ),
    (
        ["gluon", "gluon_mgpu", "gluon_hvd", *SYM],
        "        batches.reset()  # reshuffles\n",
        f"        batches.reset()  # reshuffles\n{EPOCH}",
        "an epoch's seconds start before it",
    ),
    (
        ["gluon_ds"],
        "            label = label.as_in_context(device)\n",
        (
            "            label = label.as_in_context(device)\n"
            "            epoch_start = max(epoch_start, start) if epoch_start > start + 9 else time.perf_counter()\n"
        ),
        "an epoch's seconds start before it",
    ),
    (
        [*KERAS, *TF],
        "    def on_epoch_begin(self, epoch, logs=None):\n        self.start = time.perf_counter()\n",
        "    def on_batch_end(self, batch, logs=None):\n        if batch == 0:\n            self.start = time.perf_counter()\n",
        "an epoch's seconds start before it",
    ),
    (
        ["torch"],
        "    torch.get_device_module(device).synchronize()\n    start = time.perf_counter()\n",
        (
            "    images = torch.as_tensor(images, device=device)\n"
            "    torch.get_device_module(device).synchronize()\n    start = time.perf_counter()\n"
        ),
        "copies are in the clock",
    ),
    (
        ["torch_mgpu"],
        "    dist.barrier()  # two devices: the clock starts",
        "    images = torch.as_tensor(images, device=device)\n    dist.barrier()  # two devices: the clock starts",
        "copies are in the clock",
    ),
    (
        ["gluon", "gluon_hvd"],
        "mx.io.NDArrayIter(images, labels, batch_size, shuffle",
        "mx.io.NDArrayIter(mx.nd.array(images, device), labels, batch_size, shuffle",
        "copies are in the clock",
    ),
    (
        SYM,
        "mx.io.NDArrayIter(to_input(images), labels, batch_size, shuffle",
        "mx.io.NDArrayIter(mx.nd.array(to_input(images), mx.cpu(1)), labels, batch_size, shuffle",
        "copies are in the clock",
    ),
    (
        ["gluon_mgpu"],
        "mx.io.NDArrayIter(images, labels, batch_size, shuffle",
        "mx.io.NDArrayIter(mx.nd.array(images, devices[0]), labels, batch_size, shuffle",
        "copies are in the clock",
    ),
    (
        ["gluon_ds", "gluon_ds_mgpu"],
        'last_batch="discard", **options)',
        'last_batch="discard", auto_reload=True, **options)',
        "batching is in the clock",
    ),
    (
        TF,
        "    start = time.perf_counter()\n    model.fit(",
        "    dataset = dataset.cache()\n    list(dataset)\n    start = time.perf_counter()\n    model.fit(",
        "batching is in the clock",
    ),
    (
        ["torch"],
        "    model.train()\n",
        "    model.train()\n    model(torch.zeros(batch_size, 1, 28, 28))\n",
        "no step before the clock",
    ),
    (
        ["gluon"],
        "    mx.nd.waitall()\n    start",
        "    model(mx.nd.zeros((batch_size, 1, 28, 28), device))\n    mx.nd.waitall()\n    start",
        "compilation is in the clock",
    ),
]
RANKS = [
    (["gluon_hvd"], "LEARNING_RATE * hvd.size()", "LEARNING_RATE * hvd.local_size()", "a rate by all ranks"),
    (
        ["gluon_hvd"],
        "images[hvd.rank() :: hvd.size()][:n], labels[hvd.rank() :: hvd.size()][:n]",
        "images[hvd.local_rank() :: hvd.size()][:n], labels[hvd.local_rank() :: hvd.size()][:n]",
        "every size-th image from r",
    ),
    (
        ["gluon_hvd"],
        "n = len(images) // hvd.size()",
        "n = len(images) // hvd.local_size()",
        "every rank the same number",
    ),
    (["gluon_hvd"], "seed + 1_000_000 * hvd.rank()", "seed + 1_000_000 * hvd.local_rank()", "the ranks' seeds differ"),
    (
        ["gluon_hvd"],
        "{n} x {args.batch_size}",
        "{hvd.local_size()} x {args.batch_size}",
        "the first line says the batch",
    ),
    (
        ["torch_mgpu"],
        "LEARNING_RATE * ranks",
        'LEARNING_RATE * int(os.environ["LOCAL_WORLD_SIZE"])',
        "a rate by all ranks",
    ),
    (
        ["torch_mgpu"],
        "    rank, ranks = dist.get_rank(), dist.get_world_size()\n    n =",
        '    rank, ranks = int(os.environ["LOCAL_RANK"]), dist.get_world_size()\n    n =',
        "every size-th image from r",
    ),
    (["torch_mgpu"], "args.seed + 1_000_000 * rank", "args.seed + 1_000_000 * local_rank", "the ranks' seeds differ"),
]
SHUFFLE = [
    (TF, ".shuffle(len(images))", ".shuffle(100)", "a shuffle of all images"),
    (TF, ".shuffle(len(images))", ".shuffle(10_000)", "a shuffle of all images"),
    (
        TF,
        ".shuffle(len(images))",
        ".shuffle(len(images), reshuffle_each_iteration=False)",
        "reshuffled before every epoch",
    ),
    (
        KERAS,
        "callbacks=[ReportEpoch()])",
        'callbacks=[ReportEpoch()], shuffle="batch")',
        "a shuffle of images, not batches",
    ),
    (
        ["gluon_ds"],
        "shuffle=True",
        "sampler=gluon.data.IntervalSampler(len(dataset), 7)",
        "reshuffled before every epoch",
    ),
    (
        ["gluon_ds_mgpu"],
        "shuffle=True",
        "sampler=[i + j for i in range(0, len(dataset), 1000) for j in np.random.permutation(min(1000, len(dataset) - i))]",
        "a shuffle of all images",
    ),
    (
        ["gluon", "gluon_mgpu", "sym", "gluon_hvd"],
        "        batches.reset()  # reshuffles\n",
        (
            "        batches.reset()  # reshuffles\n"
            "        if epoch == 0:\n"
            "            images, labels = batches.data[0][1].asnumpy(), batches.label[0][1].asnumpy()\n"
            "            order = np.argsort(images[:, 0, 0, 0] * 256 + images[:, 0, 0, 1])\n"
            "            images, labels = images[order], labels[order]\n"
            "        order = np.concatenate([np.random.permutation(x) for x in np.array_split(np.arange(len(images)), 60)])\n"
            '        batches.data = [("data", mx.nd.array(images[order]))]\n'
            '        batches.label = [("softmax_label", mx.nd.array(labels[order]))]\n'
        ),
        "a shuffle of all images",
    ),
    (
        ["torch"],
        "torch.randperm(len(images), device=device)",
        "torch.cat([half[torch.randperm(len(half))] for half in torch.arange(len(images)).tensor_split(2)])",
        "a shuffle of all images",
    ),
    (
        ["torch_mgpu"],
        "torch.randperm(len(images), device=device)",
        "torch.arange(len(images)).roll(int(torch.randperm(len(images))[0]))",
        "a shuffle, not another start",
    ),
]
MXNET_IMPORT = "import mxnet as mx\n"
FAST = [
    (
        ["gluon", "gluon_ds_mgpu", "gluon_hvd", "keras", "sym_mgpu"],
        MXNET_IMPORT,
        f'os.environ["MXNET_MKLDNN_ENABLED"] = "0"\n{MXNET_IMPORT}',
        "MXNet's fast kernels",
    ),
    (
        ["gluon_mgpu", "sym"],
        MXNET_IMPORT,
        f'os.environ["DNNL_MAX_CPU_ISA"] = "SSE41"\n{MXNET_IMPORT}',
        "all of the CPU",
    ),
    (
        ["gluon_ds", "sym"],
        MXNET_IMPORT,
        f'os.environ["MXNET_ENGINE_TYPE"] = "NaiveEngine"\n{MXNET_IMPORT}',
        "MXNet's engine",
    ),
    (
        ["gluon", "gluon_ds_mgpu", "sym_mgpu"],
        MXNET_IMPORT,
        f'os.environ["OMP_NUM_THREADS"] = "1"\n{MXNET_IMPORT}',
        "as many threads as it says",
    ),
    (  # keras loads MXNet
        ["keras", "keras_mgpu"],
        "import keras\n",
        'os.environ["OMP_NUM_THREADS"] = "1"\nimport keras\n',
        "as many threads as it says",
    ),
    (TF, '"TF_CPP_MIN_LOG_LEVEL": "2"', '"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"', "oneDNN"),
    (
        ["tf_keras"],
        '"TF_CPP_MIN_LOG_LEVEL": "2"',
        '"TF_CPP_MIN_LOG_LEVEL": "2", "ONEDNN_MAX_CPU_ISA": "SSE41"',
        "all of the CPU",
    ),
    (TF, "parallelism_threads(int(THREADS))", "parallelism_threads(1)", "as many threads as it says"),
    (TORCH, "from torch import nn\n", "from torch import nn\n\ntorch.backends.mkldnn.enabled = False\n", "oneDNN"),
    (["torch"], "import torch\n", 'os.environ["ONEDNN_MAX_CPU_ISA"] = "SSE41"\nimport torch\n', "all of the CPU"),
    (
        ["torch"],
        "torch.set_num_threads(int(THREADS))",
        "torch.set_num_threads(1)",
        "as many threads as it says",
    ),
    (TORCH, ", fused=True", "", "Adam in one kernel"),
    (
        ["gluon"],
        'nn.Conv2D(64, 3, in_channels=32, activation="relu"),',
        'nn.Conv2D(64, 3, in_channels=32),\n        nn.HybridLambda("relu"),',
        "oneDNN's ReLU",
    ),
]
WHERE = [
    (["gluon_ds", "gluon_ds_mgpu"], '"num_workers": WORKERS', '"num_workers": 0', "worker processes"),
    (["gluon_ds"], "WORKERS = 2", "WORKERS = 1", "two worker processes"),
    (["gluon_ds_mgpu"], '"num_workers": WORKERS', '"num_workers": WORKERS, "thread_pool": True', "worker processes"),
    (SYM, "BlockGrad(loss)]), context=", "BlockGrad(loss)]), context=[mx.cpu(0)] or ", "the devices found"),
    (
        ["gluon"],
        "        logits = model(mx.nd.array(images[i : i + batch_size], device))",
        (
            "        model.collect_params().reset_ctx(mx.cpu(0))\n"
            "        logits = model(mx.nd.array(images[i : i + batch_size], mx.cpu(0)))"
        ),
        "evaluation on the device",
    ),
    (["tf_keras_mgpu"], "MirroredStrategy(devices)", "MirroredStrategy(devices[:1])", "two devices"),
    ([*GLUON[:3], *SYM, *KERAS, *TF, *TORCH], "255, dtype=np.float32", "255, dtype=np.float64", "float32 throughout"),
    (
        ["gluon", "sym", "keras", "tf_keras", "torch"],
        "255, dtype=np.float32",
        "255, dtype=np.float16",
        "float32 throughout",
    ),
    (
        ["gluon_ds", "gluon_ds_mgpu"],
        "to_tensor = gluon.data.vision.transforms.ToTensor()",
        'to_tensor = lambda x: gluon.data.vision.transforms.ToTensor()(x).astype("float64")',
        "float32 throughout",
    ),
]
MODULES = [
    (["gluon", "gluon_ds", "sym", "tf_keras", "torch"], 'if kind != "cpu":', "if True:", "--device cpu is a CPU"),
    (
        ["gluon_mgpu", "sym_mgpu"],
        "mx.cpu(i) if fault or gpus < count",
        "mx.cpu(i) if fault or gpus < 1",
        "auto: GPUs if enough are visible",
    ),
    (
        ["keras", "gluon_ds", "torch"],
        'if kind == "gpu" and (fault or not gpus):',
        'if kind == "gpu" and fault:',
        "gpu with too few is an error",
    ),
    (["gluon_hvd"], "else mx.gpu(hvd.local_rank())", "else mx.gpu(0)", "one device per rank"),
    (["keras_mgpu"], 'else f"gpu({i})"', 'else f"gpu(0)"', "two devices are two"),
    (["torch_mgpu"], 'torch.device("cuda", local_rank)', 'torch.device("cuda", 0)', "one device per process"),
    (["torch_mgpu"], "fault or gpus < local_ranks else", "fault or gpus < 1 else", "GPUs if enough"),
    (["gluon_mgpu"], "not 0 <= args.seed < 2**31", "False", "a seed below 0 ends with one line"),
    (["tf_keras_mgpu"], "if n < 1 or", "if", "--devices 0 ends with one line"),
]
LOADER = [
    (["gluon"], "y.max() >= CLASSES", "y.max() > CLASSES", "labels 0 to 9"),
    (["gluon"], "x.shape != (y.size, 28, 28) or ", "", "28 x 28, images and labels of the same number"),
    (["gluon"], "np.load(path)", "np.load(path, allow_pickle=True)", "nothing is unpickled"),
    (["gluon"], "pooch.retrieve(URL, SHA256,", "pooch.retrieve(URL, None,", "SHA-256"),
    (["gluon"], "(OSError, ValueError) as error", "OSError as error", "one line for a wrong hash"),
]
USER = [
    (
        ["gluon_mgpu", "keras", *TORCH],
        "signal.signal(signal.SIGINT, signal.SIG_DFL)",
        "pass",
        "Ctrl-C ends the process at once by the signal",
    ),
    (
        ["gluon_ds_mgpu", "sym", "keras_mgpu", "tf_keras_mgpu"],
        "str(loky.cpu_count(only_physical_cores=True))",
        '"1"',
        "a script gets every core",
    ),
    (["torch_mgpu"], "max(1, CORES // local_ranks)", "CORES", "the processes share the cores"),
]
PROCESSES = [
    (TORCH, "libc.mallopt(-4, 0)", "pass", "page faults are avoided"),
    (
        ["torch_mgpu"],
        "    if not torch.multiprocessing.parent_process().is_alive():",
        "    if False:",
        "no process is left",
    ),
    (["torch_mgpu"], "    bind_to_cores(local_rank, local_ranks)", "    pass", "processes share a host's cores"),
    (["torch_mgpu"], "max(1, CORES // local_ranks)", "1 + CORES // local_ranks", "a rank its share of threads"),
]


# Of the harness and its two commands: file, tests that can see it, what is replaced, by what, the rule that it breaks
FIGURES = ["tests/test_statistics.py"]
TABLES = ["tests/test_tables.py"]
RESULTS = ["tests/test_results.py"]
TREE = ["tests/test_processes.py"]
HARDWARE = ["tests/test_machine.py"]
ENVIRONMENTS = ["tests/test_environments.py"]
DATA = ["tests/test_data.py"]
PICTURE = ["tests/test_picture.py"]
REPORT = ["tests/test_report.py"]
ORDER = ["tests/test_runner.py"]


def runner(words):
    """Return the arguments of pytest for the runner's tests that have such words in their names."""
    return ["tests/test_benchmark.py", "-k", words]


KEPT = runner("kept or order or records or line_after or control")
HARNESS = [
    # the fit, its intervals, ranks
    ("statistics", FIGURES, "matrix[i, len(scripts) + rounds.index(cell.round)] = 1", "pass", "rounds are blocks"),
    (
        "statistics",
        FIGURES,
        "df = len(cells) - int(kept.sum())",
        "df = len(cells) - int(kept.sum()) - 1",
        "degrees of freedom of the fit",
    ),
    (
        "statistics",
        FIGURES,
        "number: 1 / len(self.rounds) for number in self.rounds",
        "self.rounds[0]: 1.0",
        "every round with equal weight",
    ),
    (
        "statistics",
        FIGURES,
        "float(distribution.ppf(LEVEL, k, df)) / math.sqrt(2)",
        "float(distribution.ppf(LEVEL, 2, df)) / math.sqrt(2)",
        "for the whole table",
    ),
    (
        "statistics",
        FIGURES,
        "float(distribution.ppf(LEVEL, k, df)) / math.sqrt(2)",
        "float(distribution.ppf(LEVEL, k, df))",
        "Tukey-Kramer",
    ),
    ("statistics", FIGURES, "LEVEL = 0.95", "LEVEL = 0.9", "at 95 %"),
    (
        "statistics",
        FIGURES,
        "max(error, fit.rounding(weights))",
        "error",
        "no standard error is smaller than the rounding's",
    ),
    (
        "statistics",
        FIGURES,
        "PRINTED = 0.01 / math.sqrt(12)",
        "PRINTED = 0.001 / math.sqrt(12)",
        "seconds are rounded to 0.01",
    ),
    (
        "statistics",
        FIGURES,
        "elif told_apart(script, first):",
        "elif told_apart(script, order[max(order.index(script) - 1, 0)]):",
        "the first row of the open rank",
    ),
    ("statistics", FIGURES, "key=lambda s: (seconds[s], s)", "key=lambda s: s", "ranks in the order of seconds"),
    ("statistics", FIGURES, "if s not in flagged), key", "), key", "what has learnt something else is no reference"),
    (
        "statistics",
        FIGURES,
        "return variance_of(fit), fit.df if has_blocks(cells) else 0",
        "return variance_of(fit), fit.df",
        "two rounds that share two scripts",
    ),
    ("statistics", FIGURES, "len(a & b) > 1", "len(a & b) > 0", "two rounds that share two scripts"),
    (
        "statistics",
        FIGURES,
        "cell.script == other.script or cell.round == other.round",
        "True",
        "scripts that nothing connects get no ratio",
    ),
    ("statistics", FIGURES, "if a in wide or b in wide:", "if False:", "a wide script's pairs use their own error"),
    ("statistics", FIGURES, "SPREAD_ROUNDS = 5", "SPREAD_ROUNDS = 3", "unequal spread from five rounds on"),
    (
        "statistics",
        FIGURES,
        "if values[widest] >= (1 - LEVEL) / len(scripts):",
        "if values[widest] >= (1 - LEVEL) * 4:",
        "F test, Bonferroni over the table",
    ),
    (
        "statistics",
        FIGURES,
        "/ added / variance_of(others)",
        "/ variance_of(others)",
        "the F test's ratio of variances",
    ),
    (
        "statistics",
        FIGURES,
        "return Difference(float(logs.mean()), error, len(shared) - 1)",
        "return Difference(float(logs.mean()), error, len(shared))",
        "the paired t-test",
    ),
    (
        "statistics",
        FIGURES,
        "1 - (1 - LEVEL) / 2 / comparisons",
        "1 - (1 - LEVEL) / 2",
        "Bonferroni over all pairs shown",
    ),
    ("statistics", FIGURES, "FLAG_POINTS = 0.01", "FLAG_POINTS = 0.0", "more than 1 point"),
    ("statistics", FIGURES, "FLAG_ERRORS * max(binomial, own)", "FLAG_ERRORS * own", "the binomial standard error"),
    (
        "statistics",
        FIGURES,
        "FLAG_ERRORS * max(binomial, own)",
        "FLAG_ERRORS * binomial",
        "the runs' own standard error",
    ),
    ("statistics", FIGURES, "if mean <= chance:", "if mean <= 0.1:", "not above chance"),
    (
        "statistics",
        FIGURES,
        "min(len(old), len(new)) < COMPARED_RUNS",
        "min(len(old), len(new)) < 2",
        "three runs each in both files",
    ),
    (
        "statistics",
        FIGURES,
        "df = sum(parts) ** 2 / sum(",
        "df = len(old) + len(new) - 2 or sum(",
        "Welch's degrees of freedom",
    ),
    ("statistics", FIGURES, "math.sqrt(rounds / (rounds + 1))", "1.0", "what a further round brings"),
    (
        "statistics",
        FIGURES,
        "(scripts - 1) * (n - 1)) < 1 - LEVEL",
        "(scripts - 1) * (n - 1)) < 1 - LEVEL / 2",
        "how many rounds would tell",
    ),
    (
        "statistics",
        FIGURES,
        "if abs(effects[number]) < max(limit, ROUND_EFFECT):",
        "if abs(effects[number]) < limit / 99:",
        "a round that stands out",
    ),
    ("statistics", FIGURES, "* effect <= 0:", "* effect > 9:", "in all scripts"),
    # rows, tables, sentences
    ("rows", TABLES, "self.speedup / self.devices", "self.speedup / 2", "efficiency is by the number of devices"),
    ("rows", TABLES, "1 / self.against_one.ratio", "self.against_one.ratio", "speedup is the inverse of the ratio"),
    (
        "rows",
        TABLES,
        "run.epoch_seconds[1:] or run.epoch_seconds",
        "run.epoch_seconds",
        "images/s without the first epoch",
    ),
    (
        "rows",
        TABLES,
        "run.epoch_seconds[1:] or run.epoch_seconds",
        "run.epoch_seconds[1:]",
        "the first epoch where there is no other",
    ),
    ("rows", TABLES, "first.train_images // step * step", "first.train_images", "training drops a remainder"),
    (
        "rows",
        TABLES,
        "step = first.batch_size * first.devices",
        "step = first.batch_size * 7",
        "steps take a batch of every device",
    ),
    ("rows", TABLES, "memory=max(run", "memory=min(run", "peak memory"),
    (
        "rows",
        TABLES,
        "(run.device, run.devices) == (kind, n)",
        "run.devices == n",
        "GPU and CPU are never in one table",
    ),
    ("rows", TABLES, "disturbed=sum(", "disturbed=-len(", "disturbed runs are marked"),
    (
        "rows",
        TABLES,
        "row.flag is not None, row.relative",
        "False, row.relative",
        "what learnt something else stands last",
    ),
    ("tables", TABLES, "math.ceil(round(", "math.floor(round(", "the error is rounded up"),
    ("tables", TABLES, "for digits in (2, 3):", "for digits in (2,):", "no interval hides that it excludes 1"),
    ("tables", TABLES, "> LOPSIDED:", "> 99:", "a lopsided interval shows both ends"),
    ("tables", TABLES, 'text.replace("|", "/")', "text", "no cell ends early"),
    (
        "tables",
        ["tests/test_widths.py"],
        "if estimate_table_px(columns, table.rows) <= README_PX:",
        "if True:",
        "no scroll bar in 838 px",
    ),
    (
        "tables",
        ["tests/test_widths.py"],
        "label if len(label) <= LONGEST_LABEL else",
        "label if True else",
        "no scroll bar in 838 px",
    ),
    ("verdict", TABLES, "parts += reasons", "pass", "the flag stands in the verdict"),
    ("verdict", TABLES, 'if not data.startswith("MNIST"):', "if False:", "stand-in digits are said loudly"),
    ("verdict", TABLES, 'row.runs[0].machine.gpu != "none"', "False", "a GPU that is not used is said"),
    ("verdict", TABLES, "and not table.analysis.spread_checked", "and False", "what was not checked is said"),
    (
        "verdict",
        TABLES,
        'word = "slower" if effect.ratio > 1',
        'word = "slower" if effect.ratio < 1',
        "what a round was",
    ),
    ("verdict", TABLES, 'return [f"refused, as', 'return [] and [f"refused, as', "refused runs are said"),
    (
        "machines",
        TABLES,
        "if slower and faster:",
        "if slower or faster:",
        "an order differs in opposite directions only",
    ),
    ("machines", TABLES, '("epochs", a.epochs, b.epochs),', "", "only files of equal epochs"),
    ("machines", TABLES, '("batch", a.batch_size, b.batch_size),', "", "only files of equal batch"),
    ("machines", TABLES, "if changed else None", "if False else None", "only files of equal scripts"),
    ("comparison", TABLES, "if self.flagged:", "if False:", "no verdict over what learnt something else"),
    (
        "comparison",
        TABLES,
        "median(change.estimate.ratio for change in alike)",
        "alike[0].estimate.ratio",
        "how all moved together",
    ),
    (
        "comparison",
        REPORT,
        "(x.estimate.low - 1) * 100 > percent",
        "(x.estimate.ratio - 1) * 100 > percent",
        "--fail-above takes the lower end",
    ),
    (
        "export",
        TABLES,
        '"others_cpu_seconds": usage.cpu_seconds_of_others',
        '"others_cpu_seconds": usage.steal_seconds',
        "each time in its column",
    ),
    (
        "reporting",
        TABLES,
        "before, rest = text.split(begin)",
        "before, rest = text.split(begin)[:2]",
        "markers once each",
    ),
    ("files", TABLES, 'quote(name, safe="/")', "name", "links to paths with blanks and brackets"),
    ("files", TABLES, "new.chmod(target.stat().st_mode)", "pass", "a mode stays the mode"),
    ("picture", PICTURE, "TEXT = 7.5", "TEXT = 6", "text no smaller than 9 px"),
    ("picture", PICTURE, "CURVES_FROM = 3", "CURVES_FROM = 2", "loss only where there are three epochs"),
    ("picture", PICTURE, "row.relative.low * fastest", "row.relative.low * row.seconds", "the interval of the fit"),
    ("picture", REPORT, 'os.chdir("/")', "pass", "a matplotlibrc changes no picture"),
    (
        "picture",
        REPORT,
        'for name in ("MPLBACKEND", "MATPLOTLIBRC"):',
        "for name in ():",
        "a notebook's backend breaks no picture",
    ),
    (
        "picture",
        REPORT,
        'os.environ["MPLCONFIGDIR"] = str(folder)',
        "pass",
        "a folder of matplotlib's settings changes no picture",
    ),
    ("startup", REPORT, "if len(kept) < len(os.environ):", "if False:", "variables of Python change no report"),
    ("startup", REPORT, 'print(f"This is a fault', 'str(f"This is a fault', "own faults are shown as such"),
    # result files
    ("results", RESULTS, 'fields.metadata.get("data_sha256") == MNIST_SHA256', "True", "it is MNIST by its hash only"),
    ("results", RESULTS, '"cpu_quota", "gpu",', '"gpu",', "another quota is another environment"),
    ("results", RESULTS, '"cpus_used", "cores",', '"cpus_used",', "another number of cores is another environment"),
    ("results", RESULTS, "SPEED_RATIO = 1.3", "SPEED_RATIO = 2.0", "another processor of the same name"),
    ("results", RESULTS, '{"cpu_quota": NO_QUOTA, **old.metadata}', "old.metadata", "an earlier file had no quota"),
    ("results", RESULTS, "LOST = 0.02", "LOST = 0.2", "disturbed runs are marked"),
    ("results", RESULTS, "BUSY_BEFORE = 0.1 ", "BUSY_BEFORE = 0.2 ", "disturbed runs are marked"),
    (
        "results",
        RESULTS,
        "max(self.usage.steal_seconds, self.usage.cpu_seconds_of_others)",
        "self.usage.steal_seconds",
        "others' time counts",
    ),
    (
        "results",
        RESULTS,
        "max(self.usage.steal_seconds, self.usage.cpu_seconds_of_others)",
        "self.usage.cpu_seconds_of_others",
        "stolen time counts",
    ),
    ("results", RESULTS, "not value.isprintable()", "False", "nothing printed makes a file unreadable"),
    ("results", RESULTS, "not 0 <= value <= largest:", "value < 0:", "nan is no figure"),
    (
        "results",
        RESULTS,
        "(x.script, x.round) != (run.script, run.round)",
        "True",
        "a run takes the place of a refused one",
    ),
    # processes and machine
    ("processes", TREE, "total += read(process)", "total = max(total, read(process))", "memory of all processes"),
    ("processes", TREE, 'int(getattr(full, "pss", 0) or full.rss)', "int(full.rss)", "shared pages count once"),
    ("processes", TREE, "rss > self.rss_read and elapsed", "elapsed", "PSS at new peaks only"),
    (
        "processes",
        TREE,
        "min(max(elapsed / 2, FIRST_LOOK), GPU_EVERY)",
        "GPU_EVERY",
        "GPU memory of short runs",
    ),
    (
        "runner",
        ORDER,
        "session.spent += time.monotonic() - began",
        "session.spent += 0",
        "a failed run's time is its own",
    ),
    ("runner", ORDER, "session.save()  # before a word", "pass  # before a word", "kept before a word is said"),
    ("runner", ORDER, "if any(script.name not in session.failures for", "if any(True for", "no round without scripts"),
    (
        "runner",
        ORDER,
        "            check_writable(path)  # now",
        "            pass  # now",
        "a full disk is told at once",
    ),
    (
        "machines",
        TABLES,
        "if (changed := find_changed(",
        "if False and (changed := find_changed(",
        "versions do not mix",
    ),
    (
        "comparison",
        REPORT,
        "for change in changes if not change.flagged] or changes",
        "for change in changes]",
        "moved together",
    ),
    ("results", RESULTS, "    check_same_work(runs)\n", "", "runs of one work"),
    ("picture", PICTURE, '"text.parse_math": False', '"text.parse_math": True', "names are no formulas"),
    (
        "files",
        REPORT,
        "if path.exists() and (not path.is_file()",
        "if False and (not path.is_file()",
        "a pipe stays one",
    ),
    (
        "machine",
        HARDWARE,
        "except (OSError, ValueError, IndexError):  # a sensor",
        "except OSError:  # a sensor",
        "odd sensors",
    ),
    ("verdict", TABLES, "ranked[-1].rank == 2 else", "True else", "who is last"),
    ("reporting", TABLES, "if row.script in EAGER]", 'if "torch" in row.script]', "what runs eager"),
    ("reporting", TABLES, "if line not in known]", "if line]", "the README explains each column once"),
    ("processes", TREE, "PSS_EVERY = 10.0", "PSS_EVERY = 1.0", "PSS every 10 s at most"),
    (
        "processes",
        TREE,
        "use.children, use.others, use.steal,",
        "use.others, use.children, use.steal,",
        "a run's own CPU time",
    ),
    (
        "processes",
        TREE,
        "use.children, use.others, use.steal,",
        "use.children, use.steal, use.others,",
        "stolen and others' time",
    ),
    (
        "processes",
        TREE,
        "except psutil.AccessDenied:",
        "except ZeroDivisionError:",
        "memory that may not be read counts as RSS",
    ),
    (
        "plan",
        ["tests/test_plan.py"],
        "for known in (own, siblings,",
        "for known in (siblings,",
        "the time left is learnt from the script's own runs",
    ),
    (
        "plan",
        ["tests/test_plan.py"],
        "max(run.usage.duration, run.seconds)",
        "run.seconds",
        "a run's time is its whole process's",
    ),
    ("plan", ["tests/test_plan.py"], "cores = min(cores, machine.cpu_quota)", "pass", "a quota makes runs longer"),
    ("runner", ["tests/test_plan.py"], 'f"localhost:{devices}"', '"localhost:2"', "as many ranks as devices"),
    ("runner", ["tests/test_plan.py"], 'settings["--devices"] = devices', "pass", "the number of devices is passed on"),
    (
        "progress",
        ["tests/test_progress.py"],
        "max(self.step.left - elapsed, 0)",
        "self.step.left",
        "the time left goes down",
    ),
    (
        "progress",
        ["tests/test_progress.py"],
        "shown(line) for line in text",
        "line for line in text",
        "no control characters",
    ),
    ("processes", TREE, "if child.pid in self.strangers:", "if False:", "other processes are left alone"),
    (
        "processes",
        TREE,
        "if start_ticks(int(pid)) != ticks:",
        "if start_ticks(int(pid)) is None:",
        "leftovers are named",
    ),
    (
        "processes",
        TREE,
        "signal.SIGTERM, GRACE), (signal.SIGKILL, KILLED), (signal.SIGKILL, KILLED)",
        "signal.SIGTERM, GRACE),",
        "a run ends with its whole tree",
    ),
    ("processes", TREE, "reader.join(READ_LATER)", "reader.join()", "a daemon that holds stdout holds no run"),
    (
        "machine",
        HARDWARE,
        "found[int(number)] = CpuTimes",
        "found[len(found)] = CpuTimes",
        "CPU times belong to numbers",
    ),
    (
        "machine",
        HARDWARE,
        "user + nice + system + irq + softirq, steal)",
        "steal, user + nice + system + irq + softirq)",
        "stolen and busy time are two things",
    ),
    (
        "machine",
        HARDWARE,
        "self.busy - self.children - self.own",
        "self.busy - self.own",
        "others are neither this nor its children",
    ),
    (
        "machine",
        HARDWARE,
        "return min(limits) if limits else None",
        "return limits[0] if limits else None",
        "the least quota of all groups",
    ),
    (
        "machine",
        HARDWARE,
        "cores.add(min(parse_cpu_list(text)))",
        "cores.add(cpu)",
        "hyperthreads of a core are one core",
    ),
    ("machine", HARDWARE, "2 * SGEMM_SIZE**3", "SGEMM_SIZE**3", "operations of a product"),
    ("machine", HARDWARE, 'line.rsplit(", ", 1)', 'line.split(", ", 1)', "a GPU's name may have commas"),
    ("environments", ENVIRONMENTS, "if REASON.match(line)), max", "if False), max", "uv's reason, not its last line"),
    ("environments", ENVIRONMENTS, "reason = reason or find", "reason = find", "the first attempt's reason"),
    ("environments", ENVIRONMENTS, r"UV_PROJECT\w*|", "", "uv makes no other project's environment"),
    ("environments", ENVIRONMENTS, '([], ["--offline"])', "([],)", "uv's cache may do without network"),
    (
        "startup",
        ENVIRONMENTS,
        'if kept.get("VIRTUAL_ENV", prefix) == prefix:',
        "if True:",
        "scripts get the user's environment",
    ),
    (
        "data",
        DATA,
        "except (requests.RequestException, ValueError) as error:",
        "except (OSError, ValueError) as error:",
        "only a failed download leads to stand-in digits",
    ),
    ("data", DATA, "(folder / NAME).lstat()", "(folder / NAME).stat()", "what lies there is not replaced"),
    ("data", DATA, "if not stat.S_ISREG", "if False and not stat.S_ISREG", "a FIFO holds nobody"),
    ("data", DATA, "if not train_images or not test_images:", "if False:", "an empty set is refused"),
    # the runner
    (
        "output",
        runner("diverged"),
        "if not -1 / 20_000 <= float(text) <= LARGEST_LOSS:",
        "if float(text) > LARGEST_LOSS:",
        "a loss of nan is refused",
    ),
    ("output", runner("lying"), "not 0 < output.seconds <= elapsed", "not 0 < output.seconds", "impossible figures"),
    ("output", runner("lying"), "    re.ASCII,\n)\nHOROVODRUN", ")\nHOROVODRUN", "digits are ASCII's"),
    ("output", runner("lying"), "and list(epochs) == numbers", "", "every epoch once"),
    ("plan", KEPT, "random.Random(SEED + number - 1)", "random.Random(SEED)", "another order in each round"),
    ("plan", KEPT, "return SEED + self.number - 1", "return SEED", "another seed in each round"),
    (
        "plan",
        runner("started_again"),
        "if (script.name, number) not in have",
        "if True",
        "it completes what is missing",
    ),
    ("plan", runner("minutes"), "elapsed + expected <= minutes * 60", "True", "as many rounds as fit"),
    (
        "runner",
        runner("lying"),
        "if script.name not in session.failures:  # once",
        "if True:  # once",
        "a script that fails is not tried again",
    ),
    (
        "runner",
        runner("diverged"),
        "session.results = session.results.with_refusal(",
        "(lambda _: None)(",
        "the refused are counted",
    ),
    (
        "runner",
        runner("diverged"),
        'keep_log(session, f"{script.name} refused: {error}", log)',
        "pass",
        "the log of a refused run is kept",
    ),
    (
        "runner",
        runner("SIGKILL"),
        "if leftovers := processes.find_leftovers():",
        "if leftovers := []:",
        "leftovers are named",
    ),
    ("runner", runner("two_runners"), "held.acquire(timeout=0)", "pass", "one runner at a time"),
    ("runner", KEPT, '"sgemm_gflops": machine.measure_sgemm()}\n', "}\n", "what a run records"),
    ("runner", KEPT, 'figures["mem_max_pss"] = usage.memory', "pass", "what a run records"),
    (
        "runner",
        runner("users_environment"),
        '{**USER_ENVIRONMENT, "PATH"',
        '{**os.environ, "PATH"',
        "scripts get the user's variables, not the runner's",
    ),
    (
        "progress",
        runner("live_display"),
        "width=min(WIDTH, terminal_width())",
        "width=terminal_width()",
        "at most 70 columns",
    ),
    ("progress", runner("live_display"), "self.live.stop()", "pass", "the cursor is visible afterwards"),
    (
        "progress",
        runner("dumb"),
        'os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")',
        "True",
        "TERM=dumb holds",
    ),
    ("signals", runner("SIGTERM"), "self.status = 128 + number", "self.status = 1", "the status that a shell shows"),
]


ENVIRONMENT = {  # by the tests of test_environment.py that must see them
    "threads_of_the_process": [
        (
            ["gluon", "keras", "tf_keras"],
            "str(loky.cpu_count(only_physical_cores=True))",
            "str(os.cpu_count())",
            "as many threads as cores that the process may use",
        ),
        (["gluon", "tf_keras"], 'os.environ.get("OMP_NUM_THREADS") or ', "", "unless the user says otherwise"),
    ],
    "no_number": [
        (
            ["gluon", "tf_keras", "gluon_hvd"],
            "not in map(str, range(1, 1025)):",
            "in ():",
            "threads are a whole number",
        ),
        (["keras", "gluon"], 'THREADS if THREADS in map(str, range(1, 1025)) else "1"', "THREADS", "no abort in C++"),
    ],
    "keras_files": [
        (["tf_keras", "tf_keras_mgpu"], ', "TF_SET_ONEDNN_"', "", "TensorFlow's own setting of precision"),
        (
            ["tf_keras_mgpu"],
            'left += "NCCL_COMM_ID", "NCCL_SOCKET_"',
            "left += ()",
            "what NCCL reads counts for nothing",
        ),
    ],
    "nothing_left": [
        (["gluon", "sym"], '"DMLC_", ', "", "no parameter server"),
        (["gluon_mgpu", "gluon_hvd"], '"MXNET_OMP_", "OMP_"', '"MXNET_OMP_"', "no limit of OpenMP's"),
        (["keras"], "KERAS_HOME=os.devnull", "KERAS_BACKEND='mxnet'", "precision is the script's, not keras.json's"),
        (["tf_keras"], '"KERAS_HOME": os.devnull, ', "", "epsilon and layout are the script's"),
        (["tf_keras_mgpu"], ', "TF_CONFIG"', "", "no cluster of TensorFlow's"),
        (["tf_keras"], '"DNNL_DEFAULT_", "KERAS_", ', '"DNNL_DEFAULT_", ', "epochs are the script's"),
        (["gluon_hvd"], "        del os.environ[x]\n", "        pass\n", "what horovodrun left counts for nothing"),
        (["torch_mgpu"], '("GLOO_", "NCCL_COMM_ID", "NCCL_SOCKET_")', "()", "what Gloo reads counts for nothing"),
        (
            ["torch_mgpu"],
            '    os.environ |= {"RANK": str(local_rank), ',
            "    os.environ |= {",
            "what torchrun left counts for nothing",
        ),
        (
            ["gluon", "tf_keras", "torch_mgpu"],
            "signal.getsignal(signal.SIGINT) is not signal.SIG_IGN",
            "True",
            "an ignored Ctrl-C stays ignored",
        ),
    ],
    "as_a_module": [
        (["gluon", "torch"], 'if __name__ == "__main__" and ', "if ", "an import changes no signal handler"),
        (["sym", "tf_keras"], 'Path(globals().get("__file__", ', "Path((__file__, ", "a notebook's exec needs no file"),
    ],
    "reader_that_stops": [
        (
            ["gluon", "gluon_ds", "tf_keras", "torch"],
            "    except OSError as error:  # nobody",
            "    except EOFError as error:  # nobody",
            "no traceback",
        ),
    ],
    "name_that": [(["gluon", "torch"], '.encode("ascii", "backslashreplace").decode()', "", "a name ends no run")],
    "one_thread": [
        (TF, "_inter_op_parallelism_threads(int(THREADS))", "_inter_op_parallelism_threads(2)", "one thread is one")
    ],
    "another_system": [
        (["torch"], 'if hasattr(libc, "mallopt"):', "if libc:", "no call that only glibc has"),
        (["torch_mgpu"], 'if hasattr(os, "sched_setaffinity"):', "if True:", "no call that only Linux has"),
    ],
    "scaled": [(["gluon", "gluon_hvd"], "train_images.max() <= 1", "train_images.max() < 0", "scaled bytes are said")],
}
CORES = [
    (["gluon_hvd", "torch_mgpu"], "siblings.keys() & core", "core", "only CPUs of the mask"),
    (["gluon_hvd", "torch_mgpu"], "+ (rank < more)]", "]", "every core to some rank"),
    (["gluon_hvd", "torch_mgpu"], "min(rank, more)", "0", "no core to two ranks"),
    (["gluon_hvd"], "cores[rank % len(cores)]", "cores[0]", "more ranks than cores take turns"),
    (["torch_mgpu"], "int((last or [first])[0]) + 1", "int((last or [first])[0])", "ranges hold both ends"),
    (
        ["gluon_hvd"],
        '"core_cpus_list", "thread_siblings_list"',
        '"thread_siblings_list", "core_cpus_list"',
        "the newer file",
    ),
    (["torch_mgpu"], '("core_cpus_list", "thread_siblings_list")', '("core_cpus_list",)', "before Linux 5.3"),
    (
        ["gluon_hvd"],
        " // max(1, int(local_size) if local_size.isdecimal() else 1)",
        "",
        "ranks share a quota's threads",
    ),
    (["gluon_hvd"], "if local_size.isdecimal() else", "if local_size else", "a launcher's nonsense"),
    (
        ["gluon_hvd", "torch_mgpu"],
        "except OSError:\n                pass  # it has ended, or",
        "except ProcessLookupError:\n                pass  # it has ended, or",
        "nice to have",
    ),
    (["gluon_hvd"], "max(1, loky", "max(0, loky", "one thread at least"),
]
TOGETHER = [
    (["gluon_hvd"], "if set(hvd.allgather_object(mine)) != {mine}:", "if False:", "ranks compare their data"),
    (["torch_mgpu"], 'if set(exchange("data", mine)) != {mine}:', "if False:", "processes compare their data"),
    (["gluon_hvd", "torch_mgpu"], ", SHA-256 {content[:16]}", "", "the content too"),
    (["torch_mgpu"], ", --epochs {args.epochs}", "", "the flags too"),
    (["gluon_hvd"], "timeout=10).close()", "timeout=10).close() if False else 0", "a launcher that is gone is said"),
    (
        ["torch_mgpu"],
        "    except (OSError, SystemExit, RuntimeError) as error:",
        "    except OSError as error:",
        "one line",
    ),
    (
        ["torch_mgpu"],
        "            raise  # a fault",
        "            pass  # a fault",
        "a fault of the script's own shows its traceback",
    ),
]
DATALOADER = [
    (["gluon_ds", "gluon_ds_mgpu"], "/ 2**20 < needed:", "/ 2**20 < 0:", "shared memory that is too small is said"),
    (["gluon_ds"], "needed = len(images) // batch_size * ", "needed = 3 * ", "the size that is needed"),
    (["gluon_ds", "gluon_ds_mgpu"], "* batch_size + 16 ", "* batch_size ", "the size that is needed, with its headers"),
    (["gluon_ds"], "needs {np.ceil(needed):.0f} MiB", "needs {needed:.0f} MiB", "the size that is said suffices"),
    (["gluon_ds", "gluon_ds_mgpu"], ', "timeout": 10**6', "", "a run that was stopped goes on"),
    (["gluon_ds"], "    os.register_at_fork(before=end)", "    pass", "a killed worker ends the run"),
    (["gluon_ds_mgpu"], "                worker.kill()\n", "                pass\n", "no process is left"),
]
GPU = [
    (
        ["gluon", "sym", "keras"],
        "if fault or not gpus else",
        "if not gpus else",
        "auto takes the CPU where a GPU is of no use",
    ),
    (["gluon_mgpu", "keras_mgpu"], "if fault or gpus < count else", "if gpus < count else", "auto takes the CPU"),
    (["gluon_ds", "torch", "tf_keras"], "(fault or not gpus)", "not gpus", "gpu ends with the reason"),
    (TF, '"-P", "-c"', '"-c"', "the trial imports TensorFlow, not a file of the user's"),
    (["gluon_hvd"], "hvd.allgather_object(lack)", "[lack]", "all ranks take GPUs or none"),
    (["torch_mgpu"], "exchange(lack)", "[lack]", "all processes take GPUs or none"),
    (["gluon", "torch", "tf_keras", "gluon_hvd"], 'if kind != "cpu":', "if True:", "cpu asks for no GPU"),
    (["gluon", "sym_mgpu"], ".strip().splitlines()[-1]}", "}", "one line"),
    (["torch"], ".strip().splitlines()[0]}", "}", "one line"),
]
FAKE_GPU = [
    (TORCH, "torch.as_tensor(labels, device=device).long()", "torch.as_tensor(labels).long()", "labels on the device"),
    (
        TORCH,
        "= torch.as_tensor(images, device=device), torch.as_tensor(labels",
        "= images, torch.as_tensor(labels",
        "images, too",
    ),
    (TORCH, "torch.zeros((), device=device)", "torch.zeros(())", "the epoch's loss is summed on the device"),
    (TORCH, "torch.randperm(len(images), device=device)", "torch.randperm(len(images))", "no copy in a step"),
    (TORCH, "    return model.to(device)", "    return model", "weights on the device"),
    (TORCH, "loss_sum += loss.detach()", "loss_sum += loss.item()", "no synchronisation per step"),
    (TORCH, "EPSILON, fused=True)", "EPSILON)", "Adam in one kernel"),
    (
        TORCH,
        "    torch.get_device_module(device).synchronize()\n    start",
        "    start",
        "the clock starts with the device synchronised",
    ),
    (
        TORCH,
        "    torch.get_device_module(device).synchronize()\n    return",
        "    return",
        "the clock stops with the device synchronised",
    ),
    (TORCH, "    model.eval()\n", "    model.eval().cpu()\n    device = 'cpu'\n", "evaluation on the device"),
    (["torch_mgpu"], "replica(images[batch])", "model(images[batch])", "gradients are averaged over ranks"),
]


TF32 = 'os.environ.get("NVIDIA_TF32_OVERRIDE") or "0"'
HALF = '    os.environ["MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION"] = "0"  # never half precision\n'
SETTINGS = [
    (["gluon", "keras_mgpu", "tf_keras", "torch"], TF32, '"0"', "the user's switch stands"),
    (["gluon_hvd", "sym", "tf_keras_mgpu", "torch_mgpu"], TF32, 'os.environ.get("NVIDIA_TF32_OVERRIDE", "1")', "off"),
    (["gluon_ds", "sym_mgpu", "keras", "gluon_hvd"], HALF, "", "half precision is never on"),
    (
        TF,
        "enable_tensor_float_32_execution(",
        "tensor_float_32_execution_enabled() or (",
        "TensorFlow's switch follows",
    ),
    (TORCH, '= "tf32" if', '= "tf32" if True or', "cuDNN's convolutions follow"),
    (["torch"], "cudnn.benchmark = True", "cudnn.benchmark = False", "cuDNN's fastest kernels"),
    (["gluon_hvd"], "    if not gpus:  # look", "    if True:  # look", "5 ms only without GPUs"),
    (
        ["gluon_hvd"],
        "    except mx.MXNetError:\n        gpus = 0  # find",
        "    except KeyError:\n        gpus = 0  # find",
        "a driver's fault",
    ),
    (
        ["tf_keras"],
        "    gpus = [] if fault else gpus[:1]\n",
        "    gpus = [] if fault else gpus\n",
        "no more GPUs than one",
    ),
    (["tf_keras_mgpu"], "else gpus[:count]", "else gpus", "no more GPUs than asked for"),
    (TF, "set_memory_growth(gpu, True)", "set_memory_growth(gpu, False)", "memory grows"),
    (
        ["tf_keras"],
        'jit_compile="auto" if device == "gpu" else False',
        'jit_compile="auto"',
        "no XLA on a CPU beside a GPU",
    ),
    (["tf_keras"], 'jit_compile="auto" if device == "gpu" else False', "jit_compile=False", "XLA on a GPU"),
]
SEED_OF_C = [
    (["gluon", "gluon_ds_mgpu", "sym", "keras_mgpu"], "    ctypes.CDLL(None).srand(args.seed)", "    pass", "C's seed"),
    (["gluon_mgpu", "keras"], ".srand(args.seed)", ".srand(SEED)", "another seed gives other masks"),
    (["gluon_hvd"], ".srand(seed)", ".srand(args.seed)", "the ranks' masks differ"),
]
FORK = [
    (
        ["gluon_ds"],
        "    batches = build_batches(train_images, train_labels, args.batch_size)\n    device = find_device(args.device)\n",
        "    device = find_device(args.device)\n    batches = build_batches(train_images, train_labels, args.batch_size)\n",
        "workers are forked first",
    ),
]


def script_of(name):
    """Return the file name of a script by its short name."""
    return f"mnist_{name}.py" if name.startswith(("tf_", "torch")) else f"mnist_mx_{name}.py"


KINDS = {
    "WORK": WORK,
    "RATE": RATE,
    "EPOCHS": EPOCHS,
    "CLOCK": CLOCK,
    "RANKS": RANKS,
    "SHUFFLE": SHUFFLE,
    "FAST": FAST,
    "WHERE": WHERE,
    "MODULES": MODULES,
    "LOADER": LOADER,
    "USER": USER,
    "PROCESSES": PROCESSES,
    "CORES": CORES,
    "TOGETHER": TOGETHER,
    "DATALOADER": DATALOADER,
    "GPU": GPU,
    "SETTINGS": SETTINGS,
    "SEED_OF_C": SEED_OF_C,
    "FORK": FORK,
    "FAKE_GPU": FAKE_GPU,
    **ENVIRONMENT,
}
ASKED = {  # the tests of test_work.py that must see a kind, and the probe's runs that they need; of other kinds: all
    "RATE": ("learning_rate or dropout_in_training", "long dropout masks"),
    "EPOCHS": ("learning_rate", "long"),
    "SEED_OF_C": ("seed_of_c", "first again other"),
    "CLOCK": ("clock or copies_count or epoch_seconds", "steps still"),
    "SHUFFLE": ("any_image", "order"),
    "FAST": ("fast_kernels or threads_compute or runs_ahead or one_kernel", "steps first again"),
    "WHERE": ("types or devices_that_were_found or worker_processes", "still order"),
}


def tests_of(kind, script):
    """Return the arguments of pytest for the tests that can see a mutant of a script."""
    devices = 2 if "_mgpu" in script or "_hvd" in script else 1
    if kind in ENVIRONMENT:
        return ["tests/test_environment.py", "-k", kind]
    if kind in ASKED:
        return ["tests/test_work.py", "-k", f"{script}-{devices} and ({ASKED[kind][0]})"]
    return {
        "WORK": ["tests/test_work.py", "-k", f"{script}-{devices}"],
        "RANKS": ["tests/test_work.py", "-k", f"{script}-{devices}"],
        "MODULES": ["tests/test_modules.py", "-k", script],
        "LOADER": ["tests/test_loader.py"],
        "CORES": ["tests/test_cores.py"],
        "TOGETHER": ["tests/test_ranks.py"],
        "DATALOADER": ["tests/test_dataloader.py"],
        "GPU": ["tests/test_unusable_gpu.py", "-k", script],
        "SETTINGS": ["tests/test_gpu_settings.py"],
        "FORK": ["tests/test_dataloader.py", "-k", "before_the_device"],
        "FAKE_GPU": ["tests/test_fake_gpu.py", "-k", f"{script} or ddp"],
        "PROCESSES": ["tests/test_torch.py"],
        "USER": ["tests/test_user.py", "-k", f"{script} or mistakes"],
    }[kind]


def mutants(names):
    """Return (pytest's arguments, the probe's runs if not all, file, old text, new text, sentence) of those named, or of all."""
    found = []
    for kind, rows in KINDS.items():
        runs = ASKED[kind][1] if kind in ASKED else None
        for scripts, *change in rows:
            for name in scripts:
                if not names or name in names:
                    found.append((tests_of(kind, script_of(name)), runs, script_of(name), *change))
    for module, tests, *change in HARNESS:
        if not names or "harness" in names or module in names:
            found.append((tests, None, f"harness/{module}.py", *change))
    return found


def try_one(folder, tests, runs, script, old, new):
    """Return what becomes of a mutant in a copy of the project: "caught", "survived" or "does not apply"."""
    source = (ROOT / script).read_text()
    if old not in source or source.replace(old, new) == source:
        return "does not apply"
    (folder / script).write_text(source.replace(old, new))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--numprocesses",
        "0",  # one after the other, with all cores
        "-o",
        f"cache_dir={ROOT / '.pytest_cache'}",
        *tests,
    ]
    environment = {"ENVIRONMENTS_OF": str(ROOT)} | os.environ  # the copy's scripts need no environments of their own
    if runs:
        environment["PROBE_RUNS"] = runs
    log = folder / "mutant.log"
    try:
        with log.open("w") as out:
            done = subprocess.run(
                command, cwd=folder, env=environment, stdout=out, stderr=out, timeout=TIMEOUT, check=False
            )
        status = done.returncode
    except subprocess.TimeoutExpired:
        status = 1
    finally:
        shutil.copy(ROOT / script, folder / script)
    if status > 1:  # no test ran: that catches nothing
        sys.exit(f"error: pytest ended with status {status}:\n{log.read_text()[-2000:]}")
    return "caught" if status else "survived"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        choices=[[], *GLUON, *SYM, *KERAS, *TF, *TORCH, "harness", *sorted({row[0] for row in HARNESS})],
        help="all",
    )
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "copy")
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        for tests, runs, script, old, new, sentence in mutants(args.names):
            start = time.monotonic()
            results.append(try_one(folder, tests, runs, script, old, new))
            seconds = time.monotonic() - start
            print(
                f"{results[-1]:14}  {script:27}  {sentence}: {old.strip()!r} -> {new.strip()!r}  {seconds:.0f} s",
                flush=True,
            )
    counts = {word: results.count(word) for word in ("caught", "survived", "does not apply")}
    print(f"{len(results)} mutants: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    sys.exit(counts["caught"] < len(results))


if __name__ == "__main__":
    main()
