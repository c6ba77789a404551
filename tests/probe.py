"""Run one script's own functions in its own environment and save what they did.

    python tests/probe.py SCRIPT INPUT.npz OUTPUT_DIR [--devices N]

The tests hand over weights, images and labels; the answers are OUTPUT_DIR/RANK.npz. Weights travel in the order and layout
of reference.py: convolutions (out, in, height, width), dense layers (out, in), inputs flattened channel by channel.
"""

import argparse
import contextlib
import importlib.util
import inspect
import sys
import time
from pathlib import Path

import numpy as np


def load(script):
    """Return the script as a module named like its file."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # DataLoader's workers look to_batch up by its module's name
    spec.loader.exec_module(module)
    return module


def api_of(module):
    """Return which API a script uses: "tf", "keras" (keras-mxnet), "gluon" or "sym"."""
    if hasattr(module, "tf"):
        return "tf"
    if hasattr(module, "keras"):
        return "keras"
    return "gluon" if hasattr(module, "nn") else "sym"


def from_tf(arrays):
    """Return TensorFlow weights, (height, width, in, out) and (in, out), inputs flattened 12 x 12 x 64, as reference.py's."""
    arrays = [a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T for a in arrays]
    arrays[4] = arrays[4].reshape(128, 12, 12, 64).transpose(0, 3, 1, 2).reshape(128, -1)
    return arrays


def to_tf(arrays):
    """Undo from_tf."""
    arrays = list(arrays)
    arrays[4] = arrays[4].reshape(128, 64, 12, 12).transpose(0, 2, 3, 1).reshape(128, -1)
    return [a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T for a in arrays]


def get_weights(module, model):
    """Return the weights of every replica: a list, one item a device, of eight arrays."""
    api = api_of(module)
    if api == "gluon":
        parameters = model.collect_params().values()
        return [[p.data(device).asnumpy() for p in parameters] for device in next(iter(parameters)).list_ctx()]
    if api == "sym":
        names = model._exec_group.param_names
        replicas = zip(*model._exec_group.param_arrays)
        order = [f"{layer}_{kind}" for layer in ("conv1", "conv2", "dense1", "dense2") for kind in ("weight", "bias")]
        return [[dict(zip(names, replica))[name].asnumpy() for name in order] for replica in replicas]
    if api == "keras":
        weights = model.get_weights()
        replicas = [weights]
        if model._module and model._module.binded:  # trained: each executor has its own copies
            executors = model._module._curr_module._exec_group
            names = [weight.name for weight in model.trainable_weights]
            replicas = [dict(zip(executors.param_names, arrays)) for arrays in zip(*executors.param_arrays)]
            replicas = [[replica[name].asnumpy() for name in names] for replica in replicas]
        return [[a.T if a.ndim == 2 else a for a in replica] for replica in replicas]
    strategy = model.distribute_strategy or module.tf.distribute.get_strategy()
    copies = [strategy.experimental_local_results(variable.value) for variable in model.trainable_variables]
    return [from_tf([copy.numpy() for copy in replica]) for replica in zip(*copies)]


def set_weights(module, model, weights):
    """Put eight arrays into the model, on every device."""
    api = api_of(module)
    if api == "gluon":
        for parameter, array in zip(model.collect_params().values(), weights):
            parameter.set_data(module.mx.nd.array(array))
    elif api == "sym":
        order = [f"{layer}_{kind}" for layer in ("conv1", "conv2", "dense1", "dense2") for kind in ("weight", "bias")]
        model.set_params({name: module.mx.nd.array(array) for name, array in zip(order, weights)}, {})
    elif api == "keras":
        model.set_weights([a.T if a.ndim == 2 else a for a in weights])
    else:
        model.set_weights(to_tf(weights))


def layer_shapes(module, model):
    """Return the shape of each layer's output for one image, channels first, consecutive repetitions dropped."""
    if api_of(module) == "tf":
        shapes = [layer.output.shape[1:] for layer in model.layers]
        shapes = [(s[2], s[0], s[1]) if len(s) == 3 else s for s in shapes]
    elif api_of(module) == "keras":
        shapes = [layer.output_shape[1:] for layer in model.layers]
    else:
        symbol = model.symbol if api_of(module) == "sym" else model(module.mx.sym.Variable("data"))
        internals = symbol.get_internals()
        outputs = internals.infer_shape_partial(data=(1, 1, 28, 28))[1]
        variables = set(symbol.list_inputs())
        shapes = [s[1:] for name, s in zip(internals.list_outputs(), outputs) if name not in variables]
    shapes = [tuple(s) for s in shapes]
    return [s for i, s in enumerate(shapes) if i == 0 or s != shapes[i - 1]]


@contextlib.contextmanager
def watch(module, model):
    """Note what the framework trains on: yields a list of (device, image numbers), one item a step and device.

    An image's number is in its first two pixels. Of the list, .losses are the epochs' means as report_epoch gets them, and
    .updates is how many steps the optimizer counted.
    """
    log = type("Log", (list,), {})()
    log.losses, log.updates = [], 0

    def note(device, data):
        pixels = np.rint(np.asarray(data).reshape(len(data), -1)[:, :2] * 255).astype(int)
        log.append((str(device), pixels @ [256, 1]))

    undo = contextlib.ExitStack()

    def replace(owner, name, value):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    replace(module, "report_epoch", lambda epoch, epochs, loss, seconds: log.losses.append(float(loss)))
    api = api_of(module)
    if api == "tf":
        step = model.train_step

        def train_step(data):
            context = module.tf.distribute.get_replica_context()
            module.tf.numpy_function(note, [context.replica_id_in_sync_group, data[0]], [])
            return step(data)

        replace(model, "train_step", train_step)
    else:
        count = module.mx.optimizer.Optimizer._update_count

        def update_count(self, index):
            count(self, index)
            log.updates = max(log.updates, self.num_update)

        replace(module.mx.optimizer.Optimizer, "_update_count", update_count)
        if api == "gluon":

            def hook(block, inputs):
                if module.autograd.is_training():
                    note(inputs[0].context, inputs[0].asnumpy())

            handle = model.register_forward_pre_hook(hook)
            undo.callback(handle.detach)
        else:
            forward = module.mx.mod.Module.forward

            def slices(self, batch, is_train=None):
                if is_train:
                    data = batch.data[0].asnumpy()
                    for device, part in zip(self._context, self._exec_group.slices):
                        note(f"{device} {part.start}", data[part])
                forward(self, batch, is_train)

            replace(module.mx.mod.Module, "forward", slices)
    with undo:
        yield log
        if api == "tf":
            log.updates = int(model.optimizer.iterations.numpy())


def build(module, devices, batch_size):
    """Return the script's model; only Module has to know the batch size when it is built."""
    parameters = inspect.signature(module.build_model).parameters
    return module.build_model(devices, batch_size) if len(parameters) == 2 else module.build_model(devices)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    parser.add_argument("input")
    parser.add_argument("output", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()
    module = load(args.script)
    given = np.load(args.input)
    weights = [given[f"weight{i}"] for i in range(8)]
    answer = {}
    rank, devices = 0, args.devices
    if hasattr(module, "hvd"):
        module.hvd.init()
        rank, devices = module.hvd.rank(), 1
    devices = module.find_devices("cpu", devices)
    batch_size = int(given["batch_size"])

    if "initial" in given:
        model = build(module, devices, batch_size)
        answer["shapes"] = np.array([str(s) for s in layer_shapes(module, model)])
        for i, array in enumerate(get_weights(module, model)[0]):
            answer[f"initial{i}"] = array

    if "steps" in given:  # full batches, no dropout: one Adam step an epoch
        rates = module.DROPOUT_CONV, module.DROPOUT_DENSE
        # keras-mxnet cannot build a layer that drops nothing; in float32, 1 - 1e-30 is 1: all are kept
        module.DROPOUT_CONV = module.DROPOUT_DENSE = 1e-30 if api_of(module) == "keras" else 0.0
        model = build(module, devices, batch_size)
        if rank == 0:  # other ranks must get them by broadcast
            set_weights(module, model, weights)
        with watch(module, model) as log:
            module.train(model, given["images"], given["labels"], int(given["steps"]), batch_size, devices)
        answer["losses"] = np.array(log.losses)
        answer["step_devices"] = np.array([device for device, _ in log])
        answer["step_sizes"] = np.array([len(numbers) for _, numbers in log])
        for replica, arrays in enumerate(get_weights(module, model)):
            for i, array in enumerate(arrays):
                answer[f"trained{replica}_{i}"] = array
        module.DROPOUT_CONV, module.DROPOUT_DENSE = rates

    for n in given.get("work_sizes", []):
        size = int(given["work_batch"])
        model = build(module, devices, size)
        with watch(module, model) as log:
            module.train(model, given["work_images"][:n], given["work_labels"][:n], 2, size, devices)
        answer[f"updates{n}"] = log.updates
        answer[f"batch_sizes{n}"] = np.array([len(numbers) for _, numbers in log])
        answer[f"batch_numbers{n}"] = np.concatenate([numbers for _, numbers in log])

    if "test_images" in given:
        batches = given["test_batches"]
        answer["accuracies"] = np.zeros(len(batches))
        for i, size in enumerate(batches.tolist()):
            model = build(module, devices, size)
            set_weights(module, model, weights)
            answer["accuracies"][i] = module.evaluate(model, given["test_images"], given["test_labels"], size, devices)

    if "clock" in given:
        model = build(module, devices, batch_size)
        epochs = [0.0]
        module.report_epoch = lambda epoch, epochs_, loss, seconds: epochs.append(seconds)
        start = time.perf_counter()
        seconds = module.train(model, given["images"], given["labels"], 2, batch_size, devices)
        answer["wall_seconds"] = time.perf_counter() - start
        answer["train_seconds"], answer["epoch_seconds"] = seconds, sum(epochs)
        start = time.perf_counter()
        if api_of(module) == "tf":
            module.tf.test.experimental.sync_devices()
        else:
            module.mx.nd.waitall()
        answer["left_seconds"] = time.perf_counter() - start

    args.output.mkdir(exist_ok=True)
    np.savez(args.output / f"{rank}.npz", **answer)


if __name__ == "__main__":
    main()
