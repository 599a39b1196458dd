"""Blocks of U-Nets for spectrograms: convolutions, fully connected layers along frequency, recurrence along time.

Reads and writes tensors only. Parameters have the names of the original, so that its weights can be loaded. The blocks'
own names say what they work along: TFC along time and frequency, TDC (convolutions) and TDF (fully connected) along the
frequencies of each frame on its own.

Conventions: tensors are `(batch_size, nb_channels, nb_frames, nb_bins)`, time first, here and nowhere else; kernels are
`(frames, bins)`. Every block keeps frames and bins. A convolution along frequency has the weights of a `Conv1d`, and is
computed as a `Conv2d` that is one frame long: that spares two copies of its input, and its batch normalisation, over
frames and bins of the batch, is the same.

References
----------
Choi, Kim, Chung, Lee, Jung: Investigating U-Nets with various intermediate blocks for spectrogram-based singing voice
separation, ISMIR 2020: section 3 has the blocks. He et al.: Delving deep into rectifiers, ICCV 2015, and Glorot,
Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010: the initialisations.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.recurrent import recur

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "softmax": lambda: nn.Softmax(dim=1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
}
"""Activations by name; softmax is over the channels of each bin of each frame."""

_RECTIFIERS: Final = ("relu", "leaky-relu", "elu", "gelu")


@torch.no_grad()
def draw_weights(module: nn.Module, activation: str) -> None:
    """Draw all parameters with two axes or more from normal distributions: He's or, for no rectifier, Glorot's.

    Parameters
    ----------
    module : what is initialised; its parameters with one axis stay as they are.
    activation : name of what follows it.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1 and activation in _RECTIFIERS:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)


def _pad_even(x: Tensor, *kernel: int) -> Tensor:
    """Return a tensor with one zero more at the end of each last axis whose kernel is even."""
    if all(size % 2 for size in kernel):
        return x
    return F.pad(x, [each for size in reversed(kernel) for each in (0, 1 - size % 2)])


class TimeFrequencyConv(nn.Conv2d):
    """A convolution along time and frequency that keeps both lengths, for even kernels, too.

    Of what an even kernel sees beyond its middle, the greater part is later or higher.
    """

    def __init__(self, nb_inputs: int, nb_outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__(nb_inputs, nb_outputs, kernel, padding=((kernel[0] - 1) // 2, (kernel[1] - 1) // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution [shape=(batch_size, nb_outputs, nb_frames, nb_bins)]."""
        return super().forward(_pad_even(x, *self.kernel_size))


class FrequencyConv(nn.Conv1d):
    """A convolution along the frequencies of each frame that keeps their number, for even kernels, too."""

    def __init__(self, nb_inputs: int, nb_outputs: int, kernel: int) -> None:
        super().__init__(nb_inputs, nb_outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution [shape=(batch_size, nb_outputs, nb_frames, nb_bins)]."""
        size = self.kernel_size[0]
        return F.conv2d(_pad_even(x, size), self.weight.unsqueeze(2), self.bias, padding=(0, (size - 1) // 2))


class FrequencyDown(nn.Conv1d):
    """A convolution of non-overlapping groups of bins of each frame: fewer bins by a factor."""

    def __init__(self, nb_channels: int, factor: int) -> None:
        super().__init__(nb_channels, nb_channels, factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution [shape=(batch_size, nb_channels, nb_frames, nb_bins / factor)]."""
        return F.conv2d(x, self.weight.unsqueeze(2), self.bias, stride=(1, self.stride[0]))


class FrequencyUp(nn.ConvTranspose1d):
    """The transpose of `FrequencyDown`: more bins by a factor."""

    def __init__(self, nb_channels: int, factor: int) -> None:
        super().__init__(nb_channels, nb_channels, factor, stride=factor)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution [shape=(batch_size, nb_channels, nb_frames, nb_bins * factor)]."""
        return F.conv_transpose2d(x, self.weight.unsqueeze(2), self.bias, stride=(1, self.stride[0]))


def make_sampling(nb_channels: int, scale: tuple[int, int], *, up: bool, by_frame: bool) -> nn.Sequential:
    """Return a convolution and a batch normalisation that change the numbers of frames and bins.

    Parameters
    ----------
    nb_channels : channels that come in and go out.
    scale : factors of frames and bins: those that go in by those that come out, or the reverse.
    up : whether there are more afterwards.
    by_frame : whether names are those of blocks without anything between frames, and weights too, unless `scale`
        changes the number of frames.
    """
    norm = nn.BatchNorm2d(nb_channels)
    conv: nn.Module
    if by_frame and scale[0] == 1:
        conv = FrequencyUp(nb_channels, scale[1]) if up else FrequencyDown(nb_channels, scale[1])
    else:
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        conv = kind(nb_channels, nb_channels, scale, stride=scale)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm)) if by_frame else nn.Sequential(conv, norm)


class Block(nn.Module):
    """What all blocks have.

    Attributes
    ----------
    activation : name of the activation of its layers.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation

    def initialise(self) -> None:
        """Draw the weights, as they suit the block's own activation."""
        draw_weights(self, self.activation)


class DenseBlock(Block):
    """Convolutions of which each sees what goes into the block and the outputs of all that are before it.

    The latest output is the first of the channels that the next convolution sees; the last one's is the block's.
    """

    def __init__(
        self,
        nb_inputs: int,
        nb_channels: int,
        nb_layers: int,
        make_conv: Callable[[int, int], nn.Module],
        activation: str,
    ) -> None:
        super().__init__(activation)
        self.H = nn.ModuleList(
            nn.Sequential(
                make_conv(nb_inputs + i * nb_channels, nb_channels),
                nn.BatchNorm2d(nb_channels),
                ACTIVATIONS[activation](),
            )
            for i in range(nb_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output [shape=(batch_size, nb_channels, nb_frames, nb_bins)]."""
        output: Tensor = self.H[0](x)
        for layer in self.H[1:]:
            x = torch.cat([output, x], dim=1)
            output = layer(x)
        return output


class Tfc(DenseBlock):
    """Densely connected convolutions along time and frequency.

    Parameters
    ----------
    nb_inputs, nb_channels : channels that come in, and that each layer gives.
    nb_layers : convolutions.
    kernel : frames and bins that each sees.
    activation : one of `ACTIVATIONS`.
    """

    def __init__(
        self, nb_inputs: int, nb_channels: int, nb_layers: int, kernel: tuple[int, int], activation: str
    ) -> None:
        super().__init__(
            nb_inputs, nb_channels, nb_layers, lambda ins, outs: TimeFrequencyConv(ins, outs, kernel), activation
        )


class Tdc(DenseBlock):
    """Densely connected convolutions along the frequencies of each frame on its own.

    Parameters
    ----------
    nb_inputs, nb_channels, nb_layers, activation : as in `Tfc`.
    kernel : bins that each convolution sees.
    """

    def __init__(self, nb_inputs: int, nb_channels: int, nb_layers: int, kernel: int, activation: str) -> None:
        super().__init__(
            nb_inputs, nb_channels, nb_layers, lambda ins, outs: FrequencyConv(ins, outs, kernel), activation
        )


class Tdf(Block):
    """Fully connected layers along frequency, the same for all channels and frames.

    Parameters
    ----------
    nb_channels : channels, which stay as many.
    nb_inputs, nb_outputs : values of a frame of one channel that come in, and go out.
    nb_units : width of the layer between two, or None: there is only one layer.
    bias : whether the linear layers have biases.
    affine : whether the batch normalisations have weights and biases, one of each for a channel.
    activation : one of `ACTIVATIONS`.
    """

    def __init__(
        self,
        nb_channels: int,
        nb_inputs: int,
        nb_outputs: int,
        nb_units: int | None,
        *,
        bias: bool,
        affine: bool,
        activation: str,
    ) -> None:
        super().__init__(activation)
        sizes = [nb_inputs, nb_outputs] if nb_units is None else [nb_inputs, nb_units, nb_outputs]
        layers: list[nn.Module] = []
        for size, next_size in itertools.pairwise(sizes):
            layers += [
                nn.Linear(size, next_size, bias=bias),
                nn.BatchNorm2d(nb_channels, affine=affine),
                ACTIVATIONS[activation](),
            ]
        self.tif = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output [shape=(batch_size, nb_channels, nb_frames, nb_outputs)]."""
        output: Tensor = self.tif(x)
        return output

    @torch.no_grad()
    def set_averages(self) -> None:
        """Let layers to fewer units add up neighbouring values, and layers to more repeat them; biases stay.

        Each sum is divided by the root of how many values it is of, each repeated value by the root of how often it is
        repeated (of the greatest number, where they differ).
        """
        for layer in self.tif:
            if isinstance(layer, nn.Linear):
                nb_outputs, nb_inputs = layer.weight.shape
                more, fewer = max(nb_outputs, nb_inputs), min(nb_outputs, nb_inputs)
                places = torch.arange(more, device=layer.weight.device) * fewer // more
                ones = F.one_hot(places, fewer).to(layer.weight.dtype)  # more, fewer
                layer.weight.copy_((ones if nb_outputs >= nb_inputs else ones.T) / math.sqrt(-(-more // fewer)))


class MixingTdf(nn.Sequential):
    """A `Tdf`, and a linear mixture of its channels that makes them another number.

    Parameters
    ----------
    tdf : the block.
    nb_inputs, nb_channels : channels that come in, and go out.
    """

    def __init__(self, tdf: Tdf, nb_inputs: int, nb_channels: int) -> None:
        super().__init__(tdf, nn.Conv2d(nb_inputs, nb_channels, 1))
        self.activation = tdf.activation

    def initialise(self) -> None:
        """Draw the weights, as they suit what follows them."""
        draw_weights(self[0], self.activation)
        draw_weights(self[1], "identity")


class TfcTdf(Block):
    """A TFC, and a TDF of its output that is added to it.

    Parameters
    ----------
    tfc, tdf : the two, of the same activation.
    """

    def __init__(self, tfc: Tfc, tdf: Tdf) -> None:
        super().__init__(tfc.activation)
        self.tfc = tfc
        self.tif = tdf

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum [shape=(batch_size, nb_channels, nb_frames, nb_bins)]."""
        x = self.tfc(x)
        output: Tensor = x + self.tif(x)
        return output


class TdcRnn(Block):
    """A TDC, and what a recurrent network along time makes of each channel of its output, which is added to it.

    Parameters
    ----------
    tdc : the convolutions.
    nb_channels, nb_bins : channels and bins that go out.
    nb_units : width of each direction of the recurrent network.
    nb_layers : its layers.
    bias : whether they have biases.
    projection : fully connected layers from both directions' states to bins.
    """

    def __init__(
        self, tdc: Tdc, nb_channels: int, nb_bins: int, nb_units: int, nb_layers: int, bias: bool, projection: Tdf
    ) -> None:
        super().__init__(tdc.activation)
        self.tic = tdc
        self.bn = nn.BatchNorm2d(nb_channels)
        self.rnn = nn.GRU(nb_bins, nb_units, nb_layers, bias=bias, batch_first=True, bidirectional=True)
        self.tif_f1_to_f2 = projection

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum [shape=(batch_size, nb_channels, nb_frames, nb_bins)]."""
        x = self.bn(self.tic(x))
        states = recur(self.rnn, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        output: Tensor = x + self.tif_f1_to_f2(states.to(x.dtype))
        return output

    def initialise(self) -> None:
        """Draw the weights, as they suit what follows them; what follows the recurrent network's is no rectifier."""
        super().initialise()
        draw_weights(self.rnn, "tanh")
