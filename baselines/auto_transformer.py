"""A transformer of encoder and decoder stages: a network for each target, which gives a mask for all bins.

Reads and writes tensors only. `AutoTransformer` and `DecoderLayer` say what we took where the original is unclear.

References
----------
https://github.com/legoodmanner/sequence_length_ss, which names no paper.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from baselines.attention import ATTENTIONS, Attention, EncoderLayer, encode_positions
from baselines.long_input import LongInputSettings
from baselines.network_set import NetworkSet, check_counts
from musdbkit.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class AutoTransformerSettings(LongInputSettings):
    """Which networks, and how they are used to separate; the defaults are the original's.

    Attributes
    ----------
    nb_layers : stages of the encoder, and as many of the decoder.
    input_dropout : share of values that are dropped in training in the layers before the encoder.
    decoder_feedforward_size : features between the linear layers of a stage of the decoder, of which the original has
        4 only; see `DecoderLayer`.

    Others are those of `LongInputSettings`.
    """

    nb_layers: int = 4
    input_dropout: float = 0.2
    decoder_feedforward_size: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        check_counts(self, "decoder_feedforward_size")
        self._check_shares("input_dropout")
        if self.hidden_size % 2:
            raise ParameterError(f"hidden_size is {self.hidden_size}, expected an even number for positions")


class FrameNorm(nn.Module):
    """Batch normalisation of the features of all frames of sequences.

    Parameters
    ----------
    size : features of a frame.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size)  # not a base: of several processes another class takes its place

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised sequences [shape=(batch_size, nb_frames, size)].

        Parameters
        ----------
        x : sequences [shape=(batch_size, nb_frames, size)].
        """
        normalised: Tensor = self.norm(x.flatten(0, 1))
        return normalised.reshape(x.shape)


class DecoderLayer(nn.Module):
    """Attention of a sequence to itself, then between it and a stage of the encoder, then two linear layers.

    As the original, and unlike other decoders: what is normalised, and that by batches, is what the attentions are
    given. Nothing is added to what the second attention gives: so the encoder's stage asks and the sequence, through
    its keys and values, answers. The linear layers are of 4 features where those of the encoder are of 2048, although
    both are asked for 4; and their activation is GELU, as all is that is not called relu, where that of the encoder is
    SiLU.

    A third normalisation is there and serves nothing, in the original and here, where it counts as parameters only.

    Parameters
    ----------
    self_attention, cross_attention : of the sequence to itself, and between it and a stage of the encoder.
    feedforward_size : features between the two linear layers.
    dropout : share of values that are dropped in training: of what attentions give, and of both linear layers.
    """

    def __init__(
        self, self_attention: Attention, cross_attention: Attention, feedforward_size: int, dropout: float
    ) -> None:
        super().__init__()
        hidden_size = self_attention.hidden_size
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.linear1 = nn.Linear(hidden_size, feedforward_size)
        self.linear2 = nn.Linear(feedforward_size, hidden_size)
        self.norm1 = FrameNorm(hidden_size)
        self.norm2 = FrameNorm(hidden_size)
        self.norm3 = nn.LayerNorm(hidden_size).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return the sequence after the layer [shape=(batch_size, nb_frames, hidden_size)].

        Parameters
        ----------
        x : the sequence [shape=(batch_size, nb_frames, hidden_size)].
        memory : what a stage of the encoder gave [shape=(batch_size, nb_frames, hidden_size)].
        """
        x = self.norm1(x)
        x = self.norm2(x + self.dropout(self.self_attention(x, x)))
        x = self.dropout(self.cross_attention(memory, x))
        made: Tensor = self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x)))))
        return x + made


class AutoTransformer(nn.Module):
    """The network of one target, for all bins.

    Layers for each frame, positions, stages of the encoder, as many of the decoder, and layers for each frame, which
    give the mask. The decoder's first stage is given what the encoder's last one gave, and so on back to the first.

    What we took where the original is unclear:

    - Attentions have no temperature: its decoder gives none, nor does the network to its encoder.
    - Positions are made for any length, see `baselines.attention.encode_positions`; the original ends at 350 frames.
    - Layers between stages, which would halve and double something, are made and never called: ours has none.
    - Frames come in by channels, each with its bins, and masks go out by bins, each with its channels. We kept that,
      which is no more than an order of weights.

    Attributes
    ----------
    settings : its settings.
    """

    def __init__(self, settings: AutoTransformerSettings) -> None:
        super().__init__()
        self.settings = settings
        size, nb_values = settings.hidden_size, settings.nb_channels * settings.nb_bins
        self.pre_net = nn.Sequential(
            nn.Linear(nb_values, size),
            nn.Linear(size, size),
            FrameNorm(size),
            nn.SiLU(),
            nn.Dropout(settings.input_dropout),
            nn.Linear(size, size),
            FrameNorm(size),
            nn.SiLU(),
            nn.Dropout(settings.input_dropout),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(self._make_attention(), settings.feedforward_size, settings.dropout, F.silu)
            for _ in range(settings.nb_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(
                self._make_attention(), self._make_attention(), settings.decoder_feedforward_size, settings.dropout
            )
            for _ in range(settings.nb_layers)
        )
        self.post_net = nn.Sequential(
            nn.Linear(size, size),
            FrameNorm(size),
            nn.SiLU(),
            nn.Linear(size, size),
            nn.Linear(size, size),
            nn.SiLU(),
            nn.Linear(size, nb_values),
            nn.ReLU(),
        )

    def _make_attention(self) -> Attention:
        """Return an attention without a temperature."""
        settings = self.settings
        kind = ATTENTIONS[settings.attention]
        return kind(settings.hidden_size, settings.nb_heads, settings.attention_dropout, settings.padding, "scale")

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the magnitudes of the target [shape=(batch_size, nb_channels, nb_bins, nb_frames)].

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        _, nb_channels, nb_bins, nb_frames = mixture.shape
        x = self.pre_net(mixture.permute(0, 3, 1, 2).flatten(2))
        x = self.dropout(x + encode_positions(nb_frames, self.settings.hidden_size, x.device))
        memories = []
        for layer in self.encoder:
            x = layer(x)
            memories.append(x)
        for layer, memory in zip(self.decoder, reversed(memories), strict=True):
            x = layer(x, memory)
        mask = self.post_net(x).unflatten(-1, (nb_bins, nb_channels)).permute(0, 3, 1, 2).contiguous()
        estimate: Tensor = (mask * mixture.detach().mT).mT  # the mixture makes it float32, under autocast, too
        return estimate


class AutoTransformerSet(NetworkSet):
    """The networks of all targets."""

    kind = AutoTransformer
