"""Run one script's main() several times in its own environment, on data and weights given here, and save what it did.

    python tests/probe.py SCRIPT QUESTION.npz ANSWERS_DIR RUN [RUN ...] [--devices N]

A RUN is a row of RUNS below. The answers are ANSWERS_DIR/RANK.npz, "RUN.what" for each. Weights travel in the order and layout
of reference.py: convolutions (out, in, height, width), dense layers (out, in), inputs flattened channel by channel.

What the script calls is noted, not replaced: the frameworks, their iterators and their trainers are the real ones. Only
load_mnist gives the data of the question, and print is listened to.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import operator
import os
import sys
import time
import types
from pathlib import Path

import numpy as np

NO_DROPOUT = {"DROPOUT_CONV": 0.0, "DROPOUT_DENSE": 0.0}
RUNS = {  # name: epochs, batch size per device, seed, weights of the question or the script's own, constants that are changed
    "steps": (3, "all", 42, True, NO_DROPOUT),  # full batches, so that every step is known
    "still": (
        2,
        20,
        42,
        True,
        NO_DROPOUT | {"LEARNING_RATE": 0.0},
    ),  # the weights stay, so the loss of every batch is known
    # one image: which weights move tells what was dropped. Without momentum a weight whose gradient is zero does not move.
    "dropout": (6, 1, 42, True, {"LEARNING_RATE": 1e-6, "BETA_1": 0.0}),
    "first": (2, 20, 42, False, {}),
    "again": (2, 20, 42, False, {}),
    "other": (2, 20, 43, False, {}),
    "masks": (2, 1, 43, True, {"LEARNING_RATE": 1e-6, "BETA_1": 0.0}),  # as "dropout", with another seed
}


def load(script):
    """Return the script as a module named like its file."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # DataLoader's workers look to_batch up by its module's name
    spec.loader.exec_module(module)
    return module


def api_of(module):
    """Return which API a script uses: "torch", "tf", "keras" (keras-mxnet), "gluon" or "sym"."""
    if hasattr(module, "torch"):
        return "torch"
    if hasattr(module, "tf"):
        return "tf"
    if hasattr(module, "keras"):
        return "keras"
    return "gluon" if hasattr(module, "nn") else "sym"


def rank_of(module):
    """Return this process's rank and the number of ranks, of Horovod or as torchrun says: 0 and 1 without."""
    if hasattr(module, "hvd"):
        return module.hvd.rank(), module.hvd.size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


# -- weights and structure --


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
    if api == "torch":
        return [[p.detach().cpu().numpy().copy() for p in model.parameters()]]
    if api == "gluon":
        parameters = model.collect_params().values()
        return [[p.data(device).asnumpy() for p in parameters] for device in next(iter(parameters)).list_ctx()]
    if api == "sym":
        names = model._exec_group.param_names
        replicas = zip(*model._exec_group.param_arrays)
        order = [f"{layer}_{kind}" for layer in ("conv1", "conv2", "dense1", "dense2") for kind in ("weight", "bias")]
        return [[dict(zip(names, replica))[name].asnumpy() for name in order] for replica in replicas]
    if api == "keras":
        replicas = [model.get_weights()]
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
    elif api == "torch":
        model.load_state_dict(dict(zip(model.state_dict(), map(module.torch.from_numpy, weights))))
    elif api == "sym":
        order = [f"{layer}_{kind}" for layer in ("conv1", "conv2", "dense1", "dense2") for kind in ("weight", "bias")]
        model.set_params({name: module.mx.nd.array(array) for name, array in zip(order, weights)}, {})
    elif api == "keras":
        model.set_weights([a.T if a.ndim == 2 else a for a in weights])
    else:
        model.set_weights(to_tf(weights))


def structure(module, model):
    """Return the operations of the network in their order, with what their weights do not show; no flattening, no softmax."""
    if api_of(module) in ("tf", "keras"):
        layers = model.layers
        for layer in layers:  # keras-mxnet's multi_gpu_model wraps the network
            layers = layer.layers if hasattr(layer, "layers") else layers
        found = []
        for layer in layers:
            kind, settings = type(layer).__name__, layer.get_config()
            if kind.startswith("Conv"):
                found += [f"convolution {settings['strides']} {settings['padding']}", settings["activation"]]
            elif kind == "MaxPooling2D":
                found.append(f"max {settings['pool_size']} {settings['strides']} {settings['padding']}")
            elif kind == "Dropout":
                found.append(f"dropout {settings['rate']} {settings['noise_shape']}")
            elif kind == "Dense":
                found += ["dense", settings["activation"]]
            elif kind not in ("Flatten", "InputLayer"):
                found.append(kind)
    elif api_of(module) == "torch":
        assert type(model) is module.nn.Sequential
        found = []
        for layer in model:
            kind, pair = type(layer).__name__, lambda x: x if isinstance(x, tuple) else (x, x)
            padding = "valid" if getattr(layer, "padding", 0) in (0, (0, 0), "valid") else layer.padding
            if kind == "Conv2d":
                found.append(f"convolution {pair(layer.stride)} {padding}")
            elif kind == "MaxPool2d":
                found.append(f"max {pair(layer.kernel_size)} {pair(layer.stride)} {padding}")
            elif kind == "Dropout":
                found.append(f"dropout {layer.p} None")
            elif kind != "Flatten":
                found.append({"Linear": "dense", "ReLU": "relu"}.get(kind, kind))
    else:
        symbol = model.symbol if api_of(module) == "sym" else model(module.mx.sym.Variable("data"))
        found = []
        for node in json.loads(symbol.tojson())["nodes"]:
            kind, settings = node["op"], node.get("attrs", {})
            if kind == "Convolution":
                padding = "valid" if settings.get("pad", "(0, 0)") == "(0, 0)" else settings["pad"]
                found.append(f"convolution {settings.get('stride', '(1, 1)')} {padding}")
            elif kind == "Pooling":
                padding = "valid" if settings.get("pad", "(0, 0)") == "(0, 0)" else settings["pad"]
                found.append(f"{settings['pool_type']} {settings['kernel']} {settings['stride']} {padding}")
            elif kind == "Dropout":
                found.append(
                    f"dropout {settings['p']} {settings['axes'] if settings.get('axes', '()') != '()' else None}"
                )
            elif kind == "FullyConnected":
                found.append("dense")
            elif kind == "Activation":
                found.append(settings["act_type"])
            elif kind not in ("null", "SoftmaxOutput"):
                found.append(kind)
    return [word for word in found if word not in ("softmax", "linear")]


# -- listening --


class Log:
    """What one run of main() did.

    lines: what it printed; events: what it called, in order, ("clock", value) for its clock; batches: (device, numbers of the
    images) of every step and device; weights: copies of the first replica's weights when a line was printed; syncs: how often the
    host had waited for a result by then; calls: how often Python had run the network's layers by then.
    """

    def __init__(self):
        self.lines, self.events, self.batches, self.weights, self.syncs, self.calls = [], [], [], [], [], []
        self.waits = self.passes = 0
        self.listening = True

    @contextlib.contextmanager
    def aside(self):
        """What happens inside is the probe's own doing."""
        self.listening = False
        try:
            yield
        finally:
            self.listening = True

    def note(self, device, images):
        """Note a step's images; an image's number is in its first two pixels."""
        with self.aside():
            pixels = np.rint(np.asarray(images).reshape(len(images), -1)[:, :2] * 255).astype(int)
            self.batches.append((str(device), pixels @ [256, 1]))


def follow(undo, owner, name, before):
    """Call before with the arguments whenever owner.name is called, until undo closes."""
    function = getattr(owner, name)

    def called(*arguments, **options):
        before(*arguments, **options)
        return function(*arguments, **options)

    undo.callback(setattr, owner, name, vars(owner).get(name, function))
    setattr(owner, name, staticmethod(called) if isinstance(vars(owner).get(name), staticmethod) else called)


def listen(module, log, undo):
    """Note what the framework is asked to do until undo closes."""

    def event(name):
        return lambda *_, **__: log.events.append(name) if log.listening else None

    def wait(*_, **__):
        log.waits += log.listening

    def layer(*_, **__):
        log.passes += log.listening

    def adam(*_, **options):
        log.adam = options

    def clock():
        log.events.append(("clock", time.perf_counter()))
        return log.events[-1][1]

    undo.callback(setattr, module, "time", module.time)
    module.time = types.SimpleNamespace(perf_counter=clock)
    if api_of(module) == "torch":
        torch = module.torch
        follow(undo, torch.cpu, "synchronize", event("wait"))
        follow(undo, torch, "randperm", event("ask"))
        follow(undo, torch.optim.Adam, "__init__", adam)
        for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__array__"):
            follow(undo, torch.Tensor, name, wait)
        if hasattr(module, "dist"):
            for name in ("all_reduce", "barrier"):
                follow(undo, module.dist, name, event("allreduce"))
        return
    if api_of(module) == "tf":
        tf = module.tf
        follow(undo, tf.data.Dataset, "from_tensor_slices", event("make"))
        follow(undo, tf.data.Dataset, "prefetch", event("prefetch"))
        follow(undo, tf.data.experimental, "enable_debug_mode", event("debug"))
        follow(undo, tf.keras.Model, "fit", event("ask"))
        follow(undo, tf.test.experimental, "sync_devices", event("wait"))
        follow(undo, type(tf.constant(0)).__mro__[1], "_numpy", wait)
        follow(undo, module.Conv2D, "call", layer)
        return
    mx = module.mx
    follow(undo, mx.nd, "waitall", event("wait"))
    follow(undo, mx.nd, "waitall", wait)
    for name in ("asnumpy", "wait_to_read"):
        follow(undo, mx.nd.NDArray, name, wait)
    if api_of(module) == "keras":
        follow(undo, module.keras.Model, "fit", event("ask"))
    elif hasattr(module, "to_batch"):
        follow(undo, module.gluon.data.DataLoader, "__init__", event("make"))
        follow(undo, module.gluon.data.DataLoader, "__iter__", event("ask"))
    else:
        follow(undo, mx.io.NDArrayIter, "__init__", event("make"))
        follow(undo, mx.io.NDArrayIter, "next", event("ask"))
    if api_of(module) == "gluon":
        follow(undo, module.nn.Conv2D, "hybrid_forward", layer)
    if hasattr(module, "hvd"):
        follow(undo, module.hvd, "allreduce_", event("allreduce"))


def watch(module, model, log, undo):
    """Note what the model trains on, step by step and device by device, until undo closes."""
    if api_of(module) == "tf":
        step = model.train_step

        def train_step(data):
            context = module.tf.distribute.get_replica_context()
            module.tf.numpy_function(log.note, [context.replica_id_in_sync_group, data[0]], [])
            return step(data)

        model.train_step = train_step
    elif api_of(module) == "torch":

        def note(model, inputs):
            if model.training:
                with log.aside():
                    log.note(inputs[0].device, inputs[0].numpy())

        undo.callback(model.register_forward_pre_hook(note).remove)
    elif api_of(module) == "gluon":

        def hook(block, inputs):
            if module.autograd.is_training():
                with log.aside():
                    log.note(inputs[0].context, inputs[0].asnumpy())

        undo.callback(model.register_forward_pre_hook(hook).detach)
    else:

        def slices(self, batch, is_train=None):
            if is_train:
                with log.aside():
                    data = batch.data[0].asnumpy()
                for device, part in zip(self._context, self._exec_group.slices):
                    log.note(f"{device} {part.start}", data[part])

        follow(undo, module.mx.mod.Module, "forward", slices)


def run(module, name, given, devices):
    """Run main() as a row of RUNS says; return the answers by name."""
    epochs, batch_size, seed, own, constants = RUNS[name]
    if (
        api_of(module) == "keras"
    ):  # it cannot build a layer that drops nothing; in float32, 1 - 1e-30 is 1: all are kept
        constants = {key: value or 1e-30 if "DROPOUT" in key else value for key, value in constants.items()}
    images, labels = (given[f"{name}_{what}"] for what in ("images", "labels"))
    if batch_size == "all":
        batch_size = len(images) // devices
    weights = [given[f"weight{i}"] for i in range(8)]
    if name in ("dropout", "masks"):
        images, labels = np.repeat(images[:1], devices, 0), np.repeat(labels[:1], devices)
        weights[5] = np.full(128, 3.0, np.float32)  # all 128 units are active
        weights[6] /= 10  # no probability is so near 0 or 1 that its gradient vanishes
    log, answer = Log(), {}
    rank = rank_of(module)[0]
    with contextlib.ExitStack() as undo:
        for key, value in constants.items():
            undo.callback(setattr, module, key, getattr(module, key))
            setattr(module, key, value)
        build_model, train, evaluate = module.build_model, module.train, module.evaluate

        def build(*arguments):
            log.model = build_model(*arguments)
            with log.aside():
                answer["structure"] = np.array(structure(module, log.model))
                for i, array in enumerate(get_weights(module, log.model)[0]):
                    answer[f"initial{i}"] = array
                if own and rank == 0:  # the other ranks must get them by broadcast
                    set_weights(module, log.model, weights)
            if name in ("still", "first", "other"):
                watch(module, log.model, log, undo)
            listen(module, log, undo)
            return log.model

        def timed_train(*arguments):
            log.events.append("train")
            start = time.perf_counter()
            seconds = train(*arguments)
            answer["train_seconds"], answer["wall_seconds"] = seconds, time.perf_counter() - start
            log.events.append("trained")
            with log.aside():
                start = time.perf_counter()
                waits = {"tf": "tf.test.experimental.sync_devices", "torch": "torch.cpu.synchronize"}
                operator.attrgetter(waits.get(api_of(module), "mx.nd.waitall"))(module)()
                answer["left_seconds"] = time.perf_counter() - start
                for replica, arrays in enumerate(get_weights(module, log.model)):
                    answer.update({f"trained{replica}_{i}": array for i, array in enumerate(arrays)})
            return seconds

        def listened_evaluate(*arguments):
            log.events.append("evaluate")
            return evaluate(*arguments)

        def listened_print(*words, **options):
            log.lines.append(" ".join(map(str, words)))
            if log.events and log.events.count("trained") == 0:
                log.syncs.append(log.waits)
                log.calls.append(log.passes)
                if name in ("dropout", "masks"):
                    with log.aside():
                        log.weights.append(get_weights(module, log.model)[0])

        module.load_mnist = lambda data_dir: [images, labels, given["test_images"], given["test_labels"]]
        module.build_model, module.train, module.evaluate = build, timed_train, listened_evaluate
        module.print = listened_print
        undo.callback(vars(module).update, build_model=build_model, train=train, evaluate=evaluate)
        sys.argv = [
            f"{module.__name__}.py",
            "--epochs",
            epochs,
            "--batch-size",
            batch_size,
            "--seed",
            seed,
            "--device",
            "cpu",
        ]
        sys.argv += ["--devices", devices] if module.__name__.endswith("_mgpu") else []
        sys.argv = [str(word) for word in sys.argv]
        module.main()
    if api_of(module) == "gluon":
        answer["hybrid"] = np.array(
            sorted(f"{key}={value}" for key, value in log.model._flags) if log.model._active else []
        )
    answer["lines"] = np.array("\n".join(log.lines).splitlines())
    answer["events"] = np.array([event if isinstance(event, str) else event[0] for event in log.events])
    answer["clock"] = np.array([event[1] for event in log.events if not isinstance(event, str)])
    answer["syncs"], answer["calls"] = np.array(log.syncs), np.array(log.calls)
    if log.batches:
        answer["batch_devices"] = np.array([device for device, _ in log.batches])
        answer["batch_sizes"] = np.array([len(numbers) for _, numbers in log.batches])
        answer["batch_numbers"] = np.concatenate([numbers for _, numbers in log.batches])
    for i in range(8) if log.weights else ():
        answer[f"path{i}"] = np.stack([weights[i], *[copy[i] for copy in log.weights]])
    return answer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    parser.add_argument("question")
    parser.add_argument("answers", type=Path)
    parser.add_argument("runs", nargs="+", choices=list(RUNS))
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()
    module = load(args.script)
    if hasattr(module, "hvd"):
        module.hvd.init()
    rank, devices = rank_of(module)
    devices = max(devices, args.devices)
    if hasattr(module, "dist"):  # the runs share one process group: it cannot be left and joined again at will
        module.dist.init_process_group = functools.cache(module.dist.init_process_group)
        module.dist.destroy_process_group = lambda: None
    answers = {}
    for name in args.runs:
        for key, value in run(module, name, np.load(args.question), devices).items():
            answers[f"{name}.{key}"] = value
    args.answers.mkdir(exist_ok=True)
    np.savez(args.answers / f"{rank}.npz", **answers)


if __name__ == "__main__":
    main()
