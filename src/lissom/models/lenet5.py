"""LeNet-5 as Caffe ships it, the small convolutional network of the sparsity papers."""

from collections import OrderedDict

from torch import nn

from lissom.models.sizes import require_whole


def lenet5(classes: int = 10) -> nn.Sequential:
    """LeNet-5-Caffe, 20-50-500: 430,500 weights, 431,080 with biases.

    Maps images [n, 1, 28, 28] to logits [n, classes]; images of another size do not fit `fc1`.
    Children: `conv1`, `act1`, `pool1`, `conv2`, `act2`, `pool2`, `flatten`, `fc1`, `act3`, `fc2`.
    Convolutions are unpadded with 5×5 kernels, so 28 → 24 → 12 → 8 → 4 pixels a side; `fc1` sees
    50·4·4 = 800 numbers, hence "20-50-800-500" in papers that count inputs of dense layers.

    Caffe's file has a ReLU after `fc1` only. We follow the sparsity literature (Louizos, Welling &
    Kingma 2018 and its successors), which puts one after each convolution as well. There is no
    parameter in it, so all counts agree.

    Raises:
        LissomError: `classes` is not a whole number ≥ 1.

    Source: LeCun, Bottou, Bengio & Haffner 1998; sizes from Caffe's `lenet.prototxt`.
    """
    require_whole("lenet5", classes=classes)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),  # [n, 20, 24, 24]
            act1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # [n, 20, 12, 12]
            conv2=nn.Conv2d(20, 50, 5),  # [n, 50, 8, 8]
            act2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # [n, 50, 4, 4]
            flatten=nn.Flatten(),  # [n, 800]
            fc1=nn.Linear(800, 500),
            act3=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )
