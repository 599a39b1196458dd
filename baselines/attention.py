"""Attention over the frames of long inputs, of three kinds, and the layer of a transformer's encoder around it.

Reads and writes tensors only. Follows a study of how the length of inputs matters: 7, 20 and 40 s, and 60 s, which it
names only. Its source has three kinds of attention but runs with one of them only, and with that in one network. What
we took where it is unclear, or cannot run, is said in the class that it concerns. No weights and no figures of it were
published, so that there is nothing to be compatible with.

Conventions: sequences are `(batch_size, nb_frames, hidden_size)`. All frames count, none is masked. Queries, keys and
what is attended to become `(batch_size, nb_heads, nb_frames, head_size)` and go through torch's fused attention, which
on a GPU keeps no matrix of frames by frames, in training neither; keys have fewer frames than queries.

References
----------
Vaswani et al.: Attention is all you need, NeurIPS 2017: equation (1) is the attention, section 3.5 are the positions.
The study is https://github.com/legoodmanner/sequence_length_ss.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDINGS: Final = ("pointwise", "depthwise")
TEMPERATURES: Final = ("replace", "scale")

_KERNEL: Final = 3  # frames that a query, key, gate or value of the 1D kinds is made of
_KEY_STRIDE: Final = 4  # of the 1D kinds: frames from one key to the next
_IMAGE_KERNEL: Final = 5  # frames, and features, of the 2D kind
_IMAGE_CHANNELS: Final = 16
_IMAGE_KEY_STRIDE: Final = 2


class Branch1d(nn.Module):
    """What makes queries, keys, gates or values of a sequence: a convolution of each feature, then one of all features.

    The original pads the second one, which sees single frames: so the first and last frame that come out hold its bias
    and nothing of the sequence. That is `pointwise`; `depthwise` pads the first one, which is what was probably meant.
    With `pointwise`, sequences of less than three frames, which the original cannot take, are filled up with zeros.

    Parameters
    ----------
    size : features of a frame.
    stride : frames from one that comes out to the next.
    padding : one of `PADDINGS`: which of the two convolutions is padded, by a frame of zeros at either end.
    """

    def __init__(self, size: int, stride: int, padding: str) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.depthwise = nn.Conv1d(size, size, _KERNEL, stride, padding=int(padding == "depthwise"), groups=size)
        self.pointwise = nn.Linear(size, size)  # a convolution with a kernel of one frame

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch of a sequence [shape=(batch_size, nb_frames, size)].

        With a stride of 4 there are `(nb_frames - 3) // 4 + 3` frames if `pointwise`, else `(nb_frames - 1) // 4 + 1`.

        Parameters
        ----------
        x : the sequence [shape=(batch_size, nb_frames, size)].
        """
        nb_frames = x.shape[1]
        if self.padding == "depthwise":
            made: Tensor = self.pointwise(self.depthwise(x.mT).mT)
            return made
        x = self.depthwise(F.pad(x.mT, (0, max(0, _KERNEL - nb_frames)))).mT
        made = self.pointwise(F.pad(x, (0, 0, 1, 1)))
        return made[:, :nb_frames] if self.stride == 1 else made


class Branch2d(nn.Sequential):
    """What makes queries, keys or values of all heads from a sequence, as an image of frames by features.

    Takes `(batch_size, 1, nb_frames, size)`, gives `(batch_size, nb_heads, nb_frames, size)`, with half the frames,
    rounded up, for a stride of 2. Its last layer, which makes the heads of 16 channels, is a linear one for each frame
    and feature.

    Parameters
    ----------
    nb_heads : heads.
    stride : frames from one that comes out to the next.
    """

    def __init__(self, nb_heads: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(1, _IMAGE_CHANNELS, _IMAGE_KERNEL, (stride, 1), padding=_IMAGE_KERNEL // 2, bias=False),
            nn.BatchNorm2d(_IMAGE_CHANNELS),
            nn.Conv2d(_IMAGE_CHANNELS, nb_heads, 1, bias=False),
        )


class Attention(nn.Module):
    """What the three kinds share; `forward` of each takes two sequences, which are the same in self-attention.

    Parameters
    ----------
    hidden_size : features of a frame.
    nb_heads : heads.
    dropout : share of the weights of keys that are dropped in training.
    padding : one of `PADDINGS`, see `Branch1d`.
    temperature : one of `TEMPERATURES`, see `GatedAttention1d`.
    """

    def __init__(self, hidden_size: int, nb_heads: int, dropout: float, padding: str, temperature: str) -> None:
        super().__init__()
        self.hidden_size, self.nb_heads, self.dropout = hidden_size, nb_heads, dropout
        self.padding, self.temperature = padding, temperature

    def split(self, x: Tensor) -> Tensor:
        """Return the heads of a sequence [shape=(batch_size, nb_heads, nb_frames, hidden_size // nb_heads)]."""
        return x.reshape(*x.shape[:2], self.nb_heads, -1).transpose(1, 2)

    def attend(
        self, query: Tensor, key: Tensor, attended: Tensor, temperature: Tensor | None, *, replace: bool = False
    ) -> Tensor:
        """Return the heads' weighted means, side by side [shape=(batch_size, nb_frames, nb_heads * head_size)].

        Parameters
        ----------
        query, key, attended : [shape=(batch_size, nb_heads, nb_frames, head_size)].
        temperature : what queries are multiplied by [shape=()], or None.
        replace : whether that is all, without the division by the root of the head's size.
        """
        if temperature is not None:
            query = query * temperature
        scale = 1.0 if temperature is not None and replace else None
        dropout = self.dropout if self.training else 0.0
        means = F.scaled_dot_product_attention(query, key, attended, dropout_p=dropout, scale=scale)
        return means.transpose(1, 2).flatten(2)


class Attention2d(Attention):
    """`qkv2D`: queries, keys and values by two-dimensional convolutions; every head sees all features.

    The original has no temperature here, though its layers would give it one. A network that has one anyway, which all
    of its attentions share, multiplies the queries by it; as that begins at 1, it is the original's until it has learnt
    something else. Between two sequences the original's calls have four roles, for the gated kind; of these, the query
    is of the first and key and value are of the second.
    """

    def __init__(self, hidden_size: int, nb_heads: int, dropout: float, padding: str, temperature: str) -> None:
        super().__init__(hidden_size, nb_heads, dropout, padding, temperature)
        self.query = Branch2d(nb_heads, 1)
        self.key = Branch2d(nb_heads, _IMAGE_KEY_STRIDE)
        self.value = Branch2d(nb_heads, _IMAGE_KEY_STRIDE)
        self.out = nn.Linear(nb_heads * hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor, other: Tensor, temperature: Tensor | None = None) -> Tensor:
        """Return what the first sequence finds in the second [shape=(batch_size, nb_frames, hidden_size)].

        Parameters
        ----------
        x, other : the sequences [shape=(batch_size, nb_frames, hidden_size)].
        temperature : what queries are multiplied by, besides one over the root of the head's size [shape=()].
        """
        image, other_image = x[:, None], other[:, None]
        found = self.attend(self.query(image), self.key(other_image), self.value(other_image), temperature)
        out: Tensor = self.out(found)
        return out


class Attention1d(Attention):
    """`qkv1D`: queries, keys and values by `Branch1d`, keys and values for every fourth frame. The definition is ours.

    The original's text cannot run: it has 168 million parameters in a layer, of which 67 million serve nothing, shapes
    that do not fit, and attention without values. All that its description says is that one-dimensional convolutions
    make queries, keys and values. So we took the branches of `qkvg1D`, and plain attention of many heads between them.
    A temperature, and two sequences, are dealt with as in `Attention2d`.
    """

    def __init__(self, hidden_size: int, nb_heads: int, dropout: float, padding: str, temperature: str) -> None:
        super().__init__(hidden_size, nb_heads, dropout, padding, temperature)
        self.query = Branch1d(hidden_size, 1, padding)
        self.key = Branch1d(hidden_size, _KEY_STRIDE, padding)
        self.value = Branch1d(hidden_size, _KEY_STRIDE, padding)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, other: Tensor, temperature: Tensor | None = None) -> Tensor:
        """Return what the first sequence finds in the second [shape=(batch_size, nb_frames, hidden_size)].

        Parameters
        ----------
        x, other : the sequences [shape=(batch_size, nb_frames, hidden_size)].
        temperature : what queries are multiplied by, besides one over the root of the head's size [shape=()].
        """
        query, key, value = (
            self.split(branch(y)) for branch, y in ((self.query, x), (self.key, other), (self.value, other))
        )
        out: Tensor = self.out(self.attend(query, key, value, temperature))
        return out


class GatedAttention1d(Attention):
    """`qkvg1D`: `Attention1d` that attends to gates, and sets what it finds beside the values of each frame.

    Gates, like keys, are of every fourth frame, values of every frame. The original calls this gated, but joins the two
    by a linear layer of both, side by side, and multiplies nothing; so does this. Its description says two-dimensional
    convolutions, its code has one-dimensional ones.

    The original gives a learnt temperature to an attention of its own that is not published. In the library which that
    builds on, a temperature takes the place of one over the root of the head's size: `replace`, which we take for
    meant, and which makes weights sharper to begin with. `scale` multiplies by both. Without a temperature it is the
    root alone.

    Between two sequences of one length, query and gate are of the first, key and value of the second, which is the
    order of the original's call.
    """

    def __init__(self, hidden_size: int, nb_heads: int, dropout: float, padding: str, temperature: str) -> None:
        super().__init__(hidden_size, nb_heads, dropout, padding, temperature)
        self.query = Branch1d(hidden_size, 1, padding)
        self.key = Branch1d(hidden_size, _KEY_STRIDE, padding)
        self.gate = Branch1d(hidden_size, _KEY_STRIDE, padding)
        self.value = Branch1d(hidden_size, 1, padding)
        self.out = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, x: Tensor, other: Tensor, temperature: Tensor | None = None) -> Tensor:
        """Return what the first sequence finds, with the second's values [shape=(batch_size, nb_frames, hidden_size)].

        Parameters
        ----------
        x, other : the sequences, of one length [shape=(batch_size, nb_frames, hidden_size)].
        temperature : what queries are multiplied by [shape=()].
        """
        query, key, gate = (self.split(branch(y)) for branch, y in ((self.query, x), (self.key, other), (self.gate, x)))
        found = self.attend(query, key, gate, temperature, replace=self.temperature == "replace")
        out: Tensor = self.out(torch.cat([found, self.value(other)], dim=-1))
        return out


ATTENTIONS: Final[dict[str, type[Attention]]] = {
    "qkv2D": Attention2d,
    "qkv1D": Attention1d,
    "qkvg1D": GatedAttention1d,
}
"""All kinds by name."""


class EncoderLayer(nn.Module):
    """Attention of a sequence to itself, then two linear layers for each frame, both added and then normalised.

    The original asks for linear layers of 4 features in between, but its layer makes four times the hidden size of
    them, whatever is asked for: 2048. So do the settings' defaults.

    Parameters
    ----------
    attention : of the sequence to itself.
    feedforward_size : features between the two linear layers.
    dropout : share of values that are dropped in training: of what attention gives, and of both linear layers.
    activation : between the two linear layers.
    """

    def __init__(
        self, attention: Attention, feedforward_size: int, dropout: float, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.attention, self.activation = attention, activation
        self.linear1 = nn.Linear(attention.hidden_size, feedforward_size)
        self.linear2 = nn.Linear(feedforward_size, attention.hidden_size)
        self.norm1 = nn.LayerNorm(attention.hidden_size)
        self.norm2 = nn.LayerNorm(attention.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, temperature: Tensor | None = None) -> Tensor:
        """Return the sequence after the layer [shape=(batch_size, nb_frames, hidden_size)].

        Parameters
        ----------
        x : the sequence [shape=(batch_size, nb_frames, hidden_size)].
        temperature : the attention's [shape=()].
        """
        x = self.norm1(x + self.dropout(self.attention(x, x, temperature)))
        made = self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        normalised: Tensor = self.norm2(x + made)
        return normalised


def encode_positions(nb_frames: int, size: int, device: torch.device) -> Tensor:
    """Return sines and cosines, in turns, of the frames' positions [shape=(nb_frames, size), float32].

    Of wavelengths from 2 pi frames to nearly 10000 times that. They are made for the length that is needed: the
    original's are for 350 frames, so that inputs of 20 s, which are among those that it studies, end in an error.

    Parameters
    ----------
    nb_frames : number of frames.
    size : features of a frame, an even number.
    device : where to make them.
    """
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10000) / size))
    angles = torch.arange(nb_frames, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
