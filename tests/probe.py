"""Run one script's main() several times in its own environment, on data and weights given here, and save what it did.

    python tests/probe.py SCRIPT QUESTION.npz ANSWERS_DIR RUN [RUN ...] [--devices N] [--device cpu|gpu]

A RUN is a row of RUNS below. The answers are ANSWERS_DIR/RANK.npz, "RUN.what" for each. Weights travel in the order and layout
of reference.py: convolutions (out, in, height, width), dense layers (out, in), inputs flattened channel by channel.

What the script calls is noted, not replaced: the frameworks, their iterators and their trainers are the real ones. Only
load_mnist gives the data of the question, and print is listened to. Two runs are as long as a real one, and for them
build_model's network gives way to two small layers of the same API, compiled and placed alike: the loop is what they ask about.
Where nobody asks for the accuracy, evaluate() is left out.

Every API is one class, an Api, chosen in api_of. A further framework is a further class.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np

HIDDEN = 4  # units between the two small layers
EXACT = 1 + 2**-12  # a float32; rounded to TF32's ten binary places, or to those of a half, it is 1
LONG = {"cpu": (1024, 10), "gpu": (4096, 50)}  # rows and number of products: a tenth of a second or more
ROWS, CHANNELS, BATCH, SIDE = 128, 64, 32, 28  # of the product and the convolutions that show it


@dataclasses.dataclass(frozen=True)
class Run:
    """How main() is run."""

    epochs: int | None = 2  # None: the script's own number
    batch_size: int = 20  # per device; 0: all images in one step
    seed: int = 42
    given: bool = False  # starts from the question's weights, not from the script's own
    constants: dict = dataclasses.field(default_factory=dict)  # of the script, that are changed
    watched: bool = False  # what the network gets is noted; that waits for the device in every step
    followed: bool = False  # the weights are noted after every epoch
    one_image: bool = False  # all devices get the question's first image
    small: bool = False  # two small layers in place of the network
    elsewhere: bool = False  # on CPU devices that nothing takes by default
    evaluated: bool = True  # False: evaluate() is left out, as nobody asks what it says
    exact: bool = False  # then a product and two convolutions are asked for
    busy: bool = False  # when the last epoch's line is printed, every device gets long work


NO_DROPOUT = {"DROPOUT_CONV": 0.0, "DROPOUT_DENSE": 0.0}
# one image: which weights move tells what was dropped. Without momentum a weight whose gradient is zero does not move.
MASKS = {"LEARNING_RATE": 1e-6, "BETA_1": 0.0}
RUNS = {
    # full batches, so that every step is known
    "steps": Run(epochs=3, batch_size=0, given=True, constants=NO_DROPOUT, exact=True),
    # the weights stay, so the loss of every batch is known
    "still": Run(given=True, constants=NO_DROPOUT | {"LEARNING_RATE": 0.0}, watched=True, elsewhere=True),
    "dropout": Run(epochs=6, batch_size=1, given=True, constants=MASKS, followed=True, one_image=True),
    # another seed
    "masks": Run(batch_size=1, seed=43, given=True, constants=MASKS, followed=True, one_image=True, evaluated=False),
    "first": Run(watched=True),
    "again": Run(),
    "other": Run(seed=43, watched=True),
    # as many epochs and steps as a real run. With so large an epsilon and without moments a step is rate x gradient / epsilon,
    # and with so large a rate what pulls weights to zero beside Adam is seen, too.
    "long": Run(
        epochs=None,
        batch_size=5,
        given=True,
        constants=NO_DROPOUT | {"LEARNING_RATE": 2.0, "BETA_1": 0.0, "BETA_2": 0.0, "EPSILON": 4e5},
        followed=True,
        small=True,
        evaluated=False,
    ),
    # as many images as MNIST has, but small ones: their order is what it asks about
    "order": Run(batch_size=500, watched=True, small=True, evaluated=False),
    # for GPUs, whose own steps are short: what is left after the clock has stopped can be seen. On the CPU two MXNet contexts
    # that multiply large matrices at once did not end in nine minutes
    "busy": Run(busy=True),
}


class Log:
    """What one run of main() did.

    lines: what it printed; events: what it called, in order, (name, seconds of the clock); batches: (device, type, numbers of the
    images) of every step and device; evaluated: (device, type, number of images) in evaluation; weights: copies of the first
    replica's when a line was printed; syncs: how often the host had waited for a result by then; calls: how often Python had run
    the network's layers by then; processes: how many the script had started by then; threads: the CPU seconds of each of this
    process's threads by then.
    """

    def __init__(self):
        self.lines, self.events, self.batches, self.evaluated = [], [], [], []
        self.weights, self.syncs, self.calls, self.processes, self.threads = [], [], [], [], []
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

    def event(self, name):
        if self.listening:
            self.events.append((name, time.perf_counter()))

    def fetch(self, *_, **__):
        """The host waits for a result."""
        self.waits += self.listening
        self.event("fetch")

    def layer(self, *_, **__):
        """Python runs a layer of the network."""
        self.passes += self.listening

    def names(self):
        return [name for name, _ in self.events]

    def note(self, device, images, training=True):
        """Note what a device of the network gets; an image's number is in its first two pixels."""
        self.event("forward")
        with self.aside():
            images = np.asarray(images)
            if not training:
                self.evaluated.append((str(device), str(images.dtype), len(images)))
                return
            scale = 1 if images.dtype == np.uint8 else 255
            pixels = np.rint(images.reshape(len(images), -1)[:, :2].astype(float) * scale).astype(int)
            self.batches.append((str(device), str(images.dtype), pixels @ [256, 1]))


def follow(undo, owner, name, before):
    """Call before with the arguments whenever owner.name is called, until undo closes."""
    function = getattr(owner, name)

    def called(*arguments, **options):
        before(*arguments, **options)
        return function(*arguments, **options)

    undo.callback(setattr, owner, name, vars(owner).get(name, function))
    setattr(owner, name, staticmethod(called) if isinstance(vars(owner).get(name), staticmethod) else called)


def follow_all(undo, log, calls):
    """Note an event by its name whenever one of the calls, (owner, name, event), is made."""
    for owner, name, event in calls:
        follow(undo, owner, name, lambda *_, event=event, **__: log.event(event))


def pair(number):
    return number if isinstance(number, tuple) else (number, number)


def material_of_exact():
    """Return what gives EXACT everywhere: a matrix and its factor, images and two kernels that pass each channel on."""
    factor = np.eye(ROWS, dtype=np.float32)
    kernel = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
    kernel[range(CHANNELS), range(CHANNELS), 1, 1] = 1
    return factor * np.float32(EXACT), factor, np.full((BATCH, CHANNELS, SIDE, SIDE), EXACT, np.float32), kernel


def gpu_memory():
    """Return the MiB in use and in all of each GPU of this machine, as the driver's own program says."""
    command = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[float(word) for word in line.split(",")] for line in out.splitlines()]


def image_count(shapes):
    """Return how many images there are in arrays of these shapes."""
    return sum(shape[0] for shape in shapes if len(shape) > 1 and np.prod(shape[1:]) == 28 * 28)


# -- the APIs --


class Api:
    """What the probe asks of a script, in the words of the API that the script uses."""

    smallest_rate = 0.0  # of dropout that the API can build
    batches_first = False  # made in MXNet's arrays before the network

    def __init__(self, module, kind):
        self.module, self.kind = module, kind  # kind of device: "cpu" or "gpu"

    def join(self):
        """Join the other ranks, if there are any; return this process's rank and the number of ranks."""
        return 0, 1

    def elsewhere(self, devices):
        """Return CPU devices in the place of those found, such that nothing is on them by default."""
        return devices

    def devices(self, model):
        """Return the devices that a trained model's weights are on, one a replica."""
        raise NotImplementedError

    def exact(self, device):
        """Return the product of material_of_exact, and its images convolved in steps of one and of two, from a device."""
        raise NotImplementedError

    def start_work(self, device):
        """Give a device products as LONG says, and do not wait for them."""
        raise NotImplementedError

    def wait(self):
        """Wait until no device has work left."""
        raise NotImplementedError

    def get_weights(self, model):
        """Return the weights of every replica: a list, one item a device, of arrays."""
        raise NotImplementedError

    def set_weights(self, model, arrays):
        """Put the arrays into the model, on every device."""
        raise NotImplementedError

    def operations(self, model):
        """Return the network's operations in their order, with what their weights do not show."""
        raise NotImplementedError

    def small_model(self, model, arguments, shape):
        """Return two dense layers for images of this shape, placed and compiled as the model that build_model returned."""
        raise NotImplementedError

    def listen(self, log, undo):
        """Note what the framework is asked to do until undo closes."""
        raise NotImplementedError

    def listen_to_layers(self, log, undo):
        """Count how often Python runs the network's layers, where it need not, until undo closes."""

    def watch(self, model, log, undo):
        """Note what the network gets, step by step and device by device, until undo closes."""
        raise NotImplementedError

    def images_on_devices(self):
        """Return how many images are in arrays of the framework's, where nothing puts any before the clock starts."""
        return 0

    def flags(self, model):
        """Return how the network is run, as "name=value"."""
        return []

    def type_of(self, data):
        """Return the type of the images that train() or evaluate() is given."""
        return data.dtype


class MXNet(Api):
    """What MXNet's three APIs have in common."""

    def wait(self):
        self.module.mx.nd.waitall()

    def elsewhere(self, devices):
        mx = self.module.mx
        if isinstance(devices, list):
            return [mx.Context(device.device_type, device.device_id + 1) for device in devices]
        return mx.Context(devices.device_type, devices.device_id + 1)

    def listen(self, log, undo):
        mx = self.module.mx
        follow_all(undo, log, [(mx.nd, "waitall", "wait")])
        follow(undo, mx.nd, "waitall", lambda *_, **__: log.fetch())
        for name in ("asnumpy", "wait_to_read"):
            follow(undo, mx.nd.NDArray, name, log.fetch)

    def images_on_devices(self):
        mx = self.module.mx
        arrays = [thing for thing in gc.get_objects() if isinstance(thing, mx.nd.NDArray)]
        return image_count([array.shape for array in arrays if self.is_device(array.context)])

    def exact(self, device):
        nd = self.module.mx.nd
        matrix, factor, images, kernel = (nd.array(array, device) for array in material_of_exact())
        found = [nd.dot(matrix, factor)]
        for step in (1, 2):
            found.append(
                nd.Convolution(images, kernel, no_bias=True, kernel=(3, 3), stride=(step, step), num_filter=CHANNELS)
            )
        return [array.asnumpy() for array in found]

    def start_work(self, device):
        rows, products = LONG[self.kind]
        matrix = self.module.mx.nd.full((rows, rows), 1 / rows, device)
        for _ in range(products):
            matrix = self.module.mx.nd.dot(matrix, matrix)

    def is_device(self, context):
        """Return whether a context is one of those that elsewhere gives, or a GPU; the host's arrays are on cpu(0)."""
        return context != self.module.mx.cpu(0)

    def operations_of(self, symbol):
        """Return a symbol's operations."""
        found = []
        for node in json.loads(symbol.tojson())["nodes"]:
            kind, settings = node["op"], node.get("attrs", {})
            padding = "valid" if settings.get("pad", "(0, 0)") == "(0, 0)" else settings["pad"]
            if kind == "Convolution":
                found.append(f"convolution {settings.get('stride', '(1, 1)')} {padding}")
            elif kind == "Pooling":
                found.append(f"{settings['pool_type']} {settings['kernel']} {settings['stride']} {padding}")
            elif kind == "Dropout":
                axes = settings.get("axes", "()")
                found.append(f"dropout {settings['p']} {None if axes == '()' else axes}")
            elif kind == "FullyConnected":
                found.append("dense")
            elif kind == "Activation":
                found.append(settings["act_type"])
            elif kind not in ("null", "SoftmaxOutput"):
                found.append(f"operator {kind}")
        return found


class Gluon(MXNet):
    """Gluon, fed by NDArrayIter."""

    def devices(self, model):
        return next(iter(model.collect_params().values())).list_ctx()

    def get_weights(self, model):
        parameters = model.collect_params().values()
        return [[p.data(device).asnumpy() for p in parameters] for device in self.devices(model)]

    def set_weights(self, model, arrays):
        for parameter, array in zip(model.collect_params().values(), arrays):
            parameter.set_data(self.module.mx.nd.array(array))

    def operations(self, model):
        return self.operations_of(model(self.module.mx.sym.Variable("data")))

    def flags(self, model):
        return sorted(f"{key}={value}" for key, value in model._flags) if model._active else []

    def small_model(self, model, arguments, shape):
        mx, nn = self.module.mx, self.module.nn
        small = nn.HybridSequential()
        small.add(nn.Dense(HIDDEN, in_units=int(np.prod(shape))), nn.Dense(10, in_units=HIDDEN))
        small.initialize(mx.init.Xavier(), self.devices(model))
        small.hybridize(static_alloc=True, static_shape=True)
        return small

    def listen(self, log, undo):
        super().listen(log, undo)
        self.listen_to_batches(log, undo)

    def listen_to_layers(self, log, undo):
        follow(undo, self.module.nn.Conv2D, "hybrid_forward", log.layer)
        follow(undo, self.module.gluon.loss.SoftmaxCrossEntropyLoss, "hybrid_forward", log.layer)

    def listen_to_batches(self, log, undo):
        """Note when what makes the batches is made, and when it is asked for one."""
        iterator = self.module.mx.io.NDArrayIter
        follow_all(undo, log, [(iterator, "__init__", "make"), (iterator, "reset", "reset"), (iterator, "next", "ask")])

    def watch(self, model, log, undo):
        def hook(block, inputs):
            with log.aside():
                images = inputs[0].asnumpy()
            log.note(inputs[0].context, images, self.module.autograd.is_training())

        undo.callback(model.register_forward_pre_hook(hook).detach)


class GluonDataLoader(Gluon):
    """Gluon, fed by a DataLoader."""

    def type_of(self, data):
        return data._dataset[0][0].dtype if hasattr(data, "_dataset") else data.dtype

    def listen_to_batches(self, log, undo):
        loader = self.module.gluon.data.DataLoader
        follow_all(undo, log, [(loader, "__init__", "make"), (loader, "_prefetch_iter", "ask")])


class GluonHorovod(Gluon):
    """Gluon on Horovod's ranks."""

    def join(self):
        self.module.hvd.init()
        return self.module.hvd.rank(), self.module.hvd.size()

    def listen(self, log, undo):
        super().listen(log, undo)
        follow_all(undo, log, [(self.module.hvd, "allreduce_", "allreduce")])


class Module(MXNet):
    """Symbol and Module."""

    batches_first = True

    def devices(self, model):
        return [array.context for array in model._exec_group.param_arrays[0]]

    def get_weights(self, model):
        names = model._exec_group.param_names
        order = [name for name in model.symbol.list_arguments() if name in names]
        replicas = [dict(zip(names, replica)) for replica in zip(*model._exec_group.param_arrays)]
        return [[replica[name].asnumpy() for name in order] for replica in replicas]

    def set_weights(self, model, arrays):
        names = [name for name in model.symbol.list_arguments() if name in model._exec_group.param_names]
        model.set_params({name: self.module.mx.nd.array(array) for name, array in zip(names, arrays)}, {})

    def operations(self, model):
        return self.operations_of(model.symbol["softmax_output"])  # the other output is the loss

    def small_model(self, model, arguments, shape):
        mx = self.module.mx
        x = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=HIDDEN, name="dense1")
        x = mx.sym.FullyConnected(x, num_hidden=10, name="dense2")
        label = mx.sym.Variable("softmax_label")
        loss = mx.sym.BlockGrad(-mx.sym.pick(mx.sym.log_softmax(x), label))
        outputs = mx.sym.Group([mx.sym.SoftmaxOutput(x, label, name="softmax"), loss])
        small = mx.mod.Module(outputs, context=model._context)
        small.bind(model.data_shapes, model.label_shapes)
        small.init_params(mx.init.Xavier())
        return small

    def listen(self, log, undo):
        super().listen(log, undo)
        iterator = self.module.mx.io.NDArrayIter
        follow_all(undo, log, [(iterator, "__init__", "make"), (iterator, "reset", "reset"), (iterator, "next", "ask")])

    def type_of(self, data):
        return data.provide_data[0].dtype if hasattr(data, "provide_data") else data.dtype

    def watch(self, model, log, undo):
        def note(self, batch, is_train=None):
            with log.aside():
                images = batch.data[0].asnumpy()
            training = self.for_training if is_train is None else is_train
            for device, part in zip(self._context, self._exec_group.slices):
                log.note(f"{device} {part.start}" if training else device, images[part], training)

        follow(undo, self.module.mx.mod.Module, "forward", note)


def operations_of_layers(layers):
    """Return the operations of Keras layers; activations that change nothing, or that the loss could do, are left out."""
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
            found.append(f"layer {kind}")
    return [word for word in found if word not in ("softmax", "linear")]


class KerasMXNet(MXNet):
    """keras-mxnet."""

    smallest_rate = 1e-30  # it cannot build a layer that drops nothing; in float32, 1 - 1e-30 is 1: all are kept

    def devices(self, model):
        return [array.context for array in model._module._curr_module._exec_group.param_arrays[0]]

    def elsewhere(self, devices):
        return devices  # keras-mxnet reads every "cpu(i)" as cpu(0)

    def is_device(self, context):
        return True  # fit is given NumPy's arrays: no image is in one of MXNet's

    def get_weights(self, model):
        replicas = [model.get_weights()]
        if model._module and model._module.binded:  # trained: each executor has its own copies
            executors = model._module._curr_module._exec_group
            names = [weight.name for weight in model.trainable_weights]
            replicas = [dict(zip(executors.param_names, arrays)) for arrays in zip(*executors.param_arrays)]
            replicas = [[replica[name].asnumpy() for name in names] for replica in replicas]
        return [[a.T if a.ndim == 2 else a for a in replica] for replica in replicas]

    def set_weights(self, model, arrays):
        model.set_weights([a.T if a.ndim == 2 else a for a in arrays])

    def operations(self, model):
        return operations_of_layers(model.layers)

    def small_model(self, model, arguments, shape):
        keras, devices = self.module.keras, arguments[0] if isinstance(arguments[0], list) else [arguments[0]]
        flatten = self.module.Flatten("channels_last", input_shape=(1, *shape))
        layers = [flatten, self.module.Dense(HIDDEN), self.module.Dense(10, activation="softmax")]
        small = keras.Sequential(layers)
        if len(devices) > 1:
            small = keras.utils.multi_gpu_model(small, gpus=devices)
        small.compile(model.optimizer, model.loss, context=devices)
        return small

    def listen(self, log, undo):
        super().listen(log, undo)
        follow_all(undo, log, [(self.module.keras.Model, "fit", "ask")])

    watch = Module.watch  # which it is made of


class TfKeras(Api):
    """tf.keras."""

    def wait(self):
        self.module.tf.test.experimental.sync_devices()

    def replicas(self, model, variable):
        """Return the copies of a model's variable, one a device."""
        strategy = model.distribute_strategy or self.module.tf.distribute.get_strategy()
        return strategy.experimental_local_results(variable.value)

    def devices(self, model):
        return [copy.device for copy in self.replicas(model, model.trainable_variables[0])]

    def exact(self, device):
        tf = self.module.tf
        matrix, factor, images, kernel = material_of_exact()
        images, kernel = images.transpose(0, 2, 3, 1), kernel.transpose(2, 3, 1, 0)
        with tf.device(device):
            found = [tf.matmul(matrix, factor)]
            found += [tf.nn.conv2d(images, kernel, step, "VALID") for step in (1, 2)]
        assert {tensor.device for tensor in found} == {device}
        return [tensor.numpy() for tensor in found]

    def start_work(self, device):
        rows, products = LONG[self.kind]
        with self.module.tf.device(device):
            matrix = self.module.tf.fill((rows, rows), 1 / rows)
            for _ in range(products):
                matrix = self.module.tf.matmul(matrix, matrix)

    @staticmethod
    def to_reference(array):
        """Return (height, width, in, out) or (in, out), inputs flattened 12 x 12 x 64, as reference.py has it."""
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if array.shape == (128, 12 * 12 * 64):
            array = array.reshape(128, 12, 12, 64).transpose(0, 3, 1, 2).reshape(128, -1)
        return array

    @staticmethod
    def from_reference(array):
        """Undo to_reference."""
        if array.shape == (128, 64 * 12 * 12):
            array = array.reshape(128, 64, 12, 12).transpose(0, 2, 3, 1).reshape(128, -1)
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    def get_weights(self, model):
        copies = [self.replicas(model, variable) for variable in model.trainable_variables]
        return [[self.to_reference(copy.numpy()) for copy in replica] for replica in zip(*copies)]

    def set_weights(self, model, arrays):
        model.set_weights([self.from_reference(array) for array in arrays])

    def operations(self, model):
        return operations_of_layers(model.layers)

    def small_model(self, model, arguments, shape):
        tf, module = self.module.tf, self.module
        layers = [module.Input((*shape, 1)), module.Flatten(), module.Dense(HIDDEN)]
        layers.append(module.Dense(10, activation="softmax"))
        strategy = model.distribute_strategy or tf.distribute.get_strategy()
        options = {name: getattr(model, name) for name in ("jit_compile", "run_eagerly", "steps_per_execution")}
        with strategy.scope():
            small = tf.keras.Sequential(layers)
            small.compile(model.optimizer, model.loss, **options)
        return small

    def listen(self, log, undo):
        tf = self.module.tf
        # its all-reduces are known by numbers, which begin anew with every strategy: those of another run had other shapes
        tf.distribute.MirroredStrategy._collective_key_base += 1000
        calls = [(tf.data.Dataset, "from_tensor_slices", "make"), (tf.data.Dataset, "__iter__", "iterate")]
        calls += [(tf.data.Dataset, "prefetch", "prefetch"), (tf.data.experimental, "enable_debug_mode", "debug")]
        calls += [(tf.keras.Model, "fit", "ask"), (tf.test.experimental, "sync_devices", "wait")]
        follow_all(undo, log, calls)
        follow(undo, tf.__internal__.EagerTensor.__mro__[1], "_numpy", log.fetch)

    def listen_to_layers(self, log, undo):
        follow(undo, self.module.Conv2D, "call", log.layer)

    def watch(self, model, log, undo):
        def noted(step, training):
            def noting(data):
                images = data[0] if isinstance(data, tuple) else data
                replica = self.module.tf.distribute.get_replica_context().replica_id_in_sync_group
                note = functools.partial(log.note, training=training)
                self.module.tf.numpy_function(lambda *values: note(*values), [replica, images], [])
                return step(data)

            return noting

        model.train_step = noted(model.train_step, True)
        model.predict_step = noted(model.predict_step, False)


class PyTorch(Api):
    """PyTorch."""

    def wait(self):
        self.module.torch.get_device_module(self.kind.replace("gpu", "cuda")).synchronize()

    def devices(self, model):
        return [next(model.parameters()).device]

    def exact(self, device):
        torch = self.module.torch
        matrix, factor, images, kernel = (torch.from_numpy(array).to(device) for array in material_of_exact())
        found = [matrix @ factor]
        found += [torch.nn.functional.conv2d(images, kernel, stride=step) for step in (1, 2)]
        return [tensor.cpu().numpy() for tensor in found]

    def start_work(self, device):
        rows, products = LONG[self.kind]
        matrix = self.module.torch.full((rows, rows), 1 / rows, device=device)
        for _ in range(products):
            matrix = matrix @ matrix

    def get_weights(self, model):
        return [[p.detach().cpu().numpy().copy() for p in model.parameters()]]

    def set_weights(self, model, arrays):
        model.load_state_dict(dict(zip(model.state_dict(), map(self.module.torch.from_numpy, arrays))))

    def operations(self, model):
        assert type(model) is self.module.nn.Sequential
        found = []
        for layer in model:
            kind = type(layer).__name__
            padding = "valid" if getattr(layer, "padding", 0) in (0, (0, 0), "valid") else layer.padding
            if kind == "Conv2d":
                found.append(f"convolution {pair(layer.stride)} {padding}")
            elif kind == "MaxPool2d":
                found.append(f"max {pair(layer.kernel_size)} {pair(layer.stride)} {padding}")
            elif kind == "Dropout":
                found.append(f"dropout {layer.p} None")
            elif kind != "Flatten":
                found.append({"Linear": "dense", "ReLU": "relu"}.get(kind, f"layer {kind}"))
        return found

    def small_model(self, model, arguments, shape):
        nn = self.module.nn
        small = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), HIDDEN), nn.Linear(HIDDEN, 10))
        return small.to(next(model.parameters()).device)

    def images_on_devices(self):
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, self.module.torch.Tensor)]
        return image_count([tuple(tensor.shape) for tensor in tensors])

    def listen(self, log, undo):
        torch = self.module.torch
        follow_all(undo, log, [(torch.cpu, "synchronize", "wait"), (torch.cuda, "synchronize", "wait")])
        follow_all(undo, log, [(torch, "randperm", "ask")])
        follow_all(undo, log, [(torch, "_fused_adam_", "fused Adam")])
        for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__array__"):
            follow(undo, torch.Tensor, name, log.fetch)

    def watch(self, model, log, undo):
        def note(model, inputs):
            with log.aside():
                device, images = inputs[0].device, inputs[0].cpu().numpy()
            log.note(device, images, model.training)

        undo.callback(model.register_forward_pre_hook(note).remove)


class PyTorchDistributed(PyTorch):
    """PyTorch's processes, as torchrun starts them."""

    def join(self):
        dist, runs = self.module.dist, itertools.count()
        connect, join = dist.TCPStore, dist.init_process_group
        # the runs share one store and one process group, which cannot be left and joined again at will
        dist.TCPStore = lambda *words, **options: dist.PrefixStore(f"run {next(runs)}", connect(*words, **options))
        dist.init_process_group = lambda *words, **options: dist.is_initialized() or join(*words, **options)
        dist.destroy_process_group = lambda: None
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def listen(self, log, undo):
        super().listen(log, undo)
        dist = self.module.dist
        follow_all(undo, log, [(dist, "all_reduce", "allreduce"), (dist, "barrier", "allreduce")])


def api_of(module, kind):
    """Return the API that a script uses, told by what it imports, for devices of a kind."""
    for name, api in {
        "dist": PyTorchDistributed,
        "torch": PyTorch,
        "tf": TfKeras,
        "keras": KerasMXNet,
        "hvd": GluonHorovod,
        "to_batch": GluonDataLoader,
        "nn": Gluon,
        "mx": Module,
    }.items():
        if hasattr(module, name):
            return api(module, kind)
    raise ValueError(f"{module.__name__} uses no API that the probe knows")


# -- running --


def load(script):
    """Return the script as a module named like its file."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # DataLoader's workers look to_batch up by its module's name
    spec.loader.exec_module(module)
    return module


def child_processes():
    """Return the seconds of CPU time that each process started by this one has used, by its number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def thread_seconds():
    """Return the seconds of CPU time that each thread of this process has used, by its number."""
    found = {}
    for path in Path("/proc/self/task").glob("[0-9]*/schedstat"):
        with contextlib.suppress(OSError):  # it has ended
            found[path.parent.name] = int(path.read_text().split()[0]) / 1e9
    return found


@contextlib.contextmanager
def changed(module, **values):
    """Give names of the module other values inside."""
    before = {name: getattr(module, name) for name in values if hasattr(module, name)}
    vars(module).update(values)
    try:
        yield
    finally:
        for name in values:
            vars(module).pop(name)
        vars(module).update(before)


def command_line(module, run, batch_size, devices, kind):
    """Return sys.argv for a run."""
    words = [f"{module.__name__}.py", "--batch-size", batch_size, "--seed", run.seed, "--device", kind]
    words += ["--epochs", run.epochs] if run.epochs else []
    words += ["--devices", devices] if module.__name__.endswith("_mgpu") else []
    return [str(word) for word in words]


def run_main(api, name, given, devices):
    """Run main() as a row of RUNS says; return the answers by name."""
    run, module, rank = RUNS[name], api.module, api.rank
    constants = {
        key: value or api.smallest_rate if key.startswith("DROPOUT") else value for key, value in run.constants.items()
    }
    images, labels = given[f"{name}_images"], given[f"{name}_labels"]
    if run.one_image:
        images, labels = np.repeat(images[:1], devices, 0), np.repeat(labels[:1], devices)
    weights = [given[f"{name}_weight{i}"] for i in range(4 if run.small else 8)] if run.given else []
    log, answer, others = Log(), {}, child_processes()
    libc = ctypes.CDLL(None)
    build_model, train, evaluate = module.build_model, module.train, module.evaluate

    def build(*arguments):
        images_there = api.images_on_devices() if api.batches_first else 0
        log.model = build_model(*arguments)
        if run.small:
            log.model = api.small_model(log.model, arguments, images.shape[1:])
        else:
            answer["structure"] = np.array(api.operations(log.model))
            for i, array in enumerate(api.get_weights(log.model)[0]):
                answer[f"initial{i}"] = array
        if run.given and rank == 0:  # the other ranks must get them by broadcast
            api.set_weights(log.model, weights)
        api.listen_to_layers(log, undo)
        if run.watched:
            api.watch(log.model, log, undo)
        log.images = api.images_on_devices() - images_there  # what the network itself holds for its input
        return log.model

    def clock():
        if "clock" not in log.names():  # it starts
            with log.aside():
                answer["images_before"] = api.images_on_devices() - log.images
        log.event("clock")
        return log.events[-1][1]

    def timed_train(*arguments):
        answer["train_type"] = str(np.dtype(api.type_of(arguments[1])))
        answer["rand"] = [libc.rand() for _ in range(3)]  # as cuDNN's dropout would take them
        log.event("train")
        threads = thread_seconds()
        start = time.perf_counter()
        answer["train_seconds"] = train(*arguments)
        answer["wall_seconds"] = time.perf_counter() - start
        log.event("trained")
        with log.aside():
            start = time.perf_counter()
            api.wait()
            answer["left_seconds"] = time.perf_counter() - start
            used = thread_seconds()
            before = log.threads[0] if log.threads else threads  # the first epoch compiles, in one thread
            answer["thread_seconds"] = [used[number] - before.get(number, 0) for number in used]
            if run.busy:
                start = time.perf_counter()
                start_work()
                api.wait()
                answer["work_seconds"] = time.perf_counter() - start
            for replica, arrays in enumerate(api.get_weights(log.model)):
                answer.update({f"trained{replica}_{i}": array for i, array in enumerate(arrays)})
        return answer["train_seconds"]

    def listened_evaluate(*arguments):
        answer["evaluate_type"] = str(np.dtype(api.type_of(arguments[1])))
        log.event("evaluate")
        return evaluate(*arguments) if run.evaluated else 0.0

    def start_work():
        for device in api.devices(log.model):
            api.start_work(device)

    def listened_print(*words, file=None, **options):
        if file is not None:  # a word on stderr
            print(*words, file=file, **options)
            return
        log.lines.append(" ".join(map(str, words)))
        if "train" not in log.names() or "trained" in log.names():
            return
        log.event("print")
        log.syncs.append(log.waits)
        log.calls.append(log.passes)
        log.processes.append([s for number, s in child_processes().items() if number not in others])
        log.threads.append(thread_seconds())
        if run.busy and len(log.syncs) == run.epochs:
            with log.aside():
                start_work()
        if run.followed:
            with log.aside():
                log.weights.append(api.get_weights(log.model)[0])
        log.event("printed")

    data = [images, labels, given[f"{name}_test_images"], given["test_labels"]]
    replaced = {"build_model": build, "train": timed_train, "evaluate": listened_evaluate, "print": listened_print}
    replaced |= {
        "load_mnist": lambda data_dir: data,
        "time": types.SimpleNamespace(perf_counter=clock, sleep=time.sleep),
    }
    if run.elsewhere and api.kind == "cpu":
        find = "find_devices" if hasattr(module, "find_devices") else "find_device"
        found = getattr(module, find)
        replaced[find] = lambda *arguments: api.elsewhere(found(*arguments))
    with contextlib.ExitStack() as undo:
        undo.enter_context(changed(module, **constants, **replaced))
        api.listen(log, undo)
        sys.argv = command_line(module, run, run.batch_size or len(images) // devices, devices, api.kind)
        module.main()
    answer["weight_devices"] = [str(device) for device in api.devices(log.model)]
    if run.exact:
        found = [api.exact(device) for device in api.devices(log.model)]
        for key, arrays in zip(("products", "convolutions", "strided_convolutions"), zip(*found)):
            answer[key] = np.stack(arrays)
    answer["lines"] = "\n".join(log.lines).splitlines()
    answer["events"], answer["event_seconds"] = log.names(), [seconds for _, seconds in log.events]
    answer["syncs"], answer["calls"], answer["flags"] = log.syncs, log.calls, api.flags(log.model)
    answer["processes"] = [seconds for seconds in log.processes[-1]] if log.processes else []
    if log.batches:
        answer["batch_devices"], answer["batch_types"], numbers = zip(*log.batches)
        answer["batch_sizes"] = [len(batch) for batch in numbers]
        answer["batch_numbers"] = np.concatenate(numbers)
    if log.evaluated:
        answer["evaluated_devices"], answer["evaluated_types"], answer["evaluated_sizes"] = zip(*log.evaluated)
    for i in range(len(weights)) if log.weights else ():
        answer[f"path{i}"] = np.stack([weights[i], *[copy[i] for copy in log.weights]])
    return answer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    parser.add_argument("question")
    parser.add_argument("answers", type=Path)
    parser.add_argument("runs", nargs="+", choices=list(RUNS))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="kind of them")
    args = parser.parse_args()
    api = api_of(load(args.script), args.device)
    api.rank, ranks = api.join()
    args.answers.mkdir(exist_ok=True)
    answers = {}
    memory = [gpu_memory()] if args.device == "gpu" else []  # before anything is on a GPU
    with open(args.answers / f"{api.rank}.txt", "w") as chatter:
        os.dup2(chatter.fileno(), 1)  # where oneDNN, asked by a variable, says what it computes
    for name in args.runs:
        os.write(1, f"run {name}\n".encode())
        sys.stderr.write(f"{name} {time.perf_counter():.1f} {time.process_time():.1f}\n")
        for key, value in run_main(api, name, np.load(args.question), max(ranks, args.devices)).items():
            answers[f"{name}.{key}"] = np.array(value)
        if args.device == "gpu":
            memory.append(gpu_memory())
    answers["gpu_memory"] = np.array(memory)  # MiB in use and in all of each GPU, at first and after each run
    np.savez(args.answers / f"{api.rank}.npz", **answers)


if __name__ == "__main__":
    main()
