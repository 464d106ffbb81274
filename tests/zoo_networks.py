"""Small networks of our own, one for each way of wiring that the libraries' do not have."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Skips by concatenation, up by transposed convolution."""

    def __init__(self, widths: tuple[int, ...] = (8, 12, 16), classes: int = 3) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(map(conv_block, inputs, widths))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for wide, narrow in pairs)
        self.merge = nn.ModuleList(conv_block(2 * narrow, narrow) for _, narrow in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class RecurrentClassifier(nn.Module):
    """Tokens → embedding → LSTM or GRU, several layers, both directions → mean → classes."""

    def __init__(self, cell: type[nn.RNNBase], width: int = 10, bidirectional: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.rnn = cell(8, width, num_layers=2, bidirectional=bidirectional, batch_first=True)
        self.head = nn.Linear(width * (1 + bidirectional), 5)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(tokens))
        return self.head(states.mean(1))


class LastState(nn.Module):
    """Reads the final hidden and cell states instead of the outputs; time comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 10)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, cell) = self.rnn(x)
        return self.head(torch.cat([hidden[-1], cell[-1]], dim=-1))


class GatedResidual1d(nn.Module):
    """tanh(a)·σ(b) of one dilated convolution, with a residual and a skip output (WaveNet)."""

    def __init__(self, width: int, skip: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation)
        self.residual = nn.Conv1d(width, width, 1)
        self.skip = nn.Conv1d(width, skip, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.conv(x).chunk(2, dim=1)
        hidden = a.tanh() * b.sigmoid()
        return x + self.residual(hidden), self.skip(hidden)


class WaveNet(nn.Module):
    def __init__(self, width: int = 8, skip: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, width, 1)
        self.blocks = nn.ModuleList(GatedResidual1d(width, skip, 2**n) for n in range(3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, 10, 1), nn.ReLU(), nn.Conv1d(10, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total = 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.head(total)


def radio() -> nn.Sequential:
    """Two-channel signals, as a modulation classifier sees them: 1-d, strided, flattened."""
    return nn.Sequential(
        nn.Conv1d(2, 10, 7, stride=2, padding=3),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Conv1d(10, 12, 5, padding=2, groups=2),
        nn.BatchNorm1d(12),
        nn.SELU(),
        nn.MaxPool1d(2),
        nn.Conv1d(12, 16, 3),
        nn.PReLU(16),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(16 * 3, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


def volume() -> nn.Sequential:
    """3-d convolutions of a small scan or clip."""
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(6, 10, 3, padding=1),
        nn.InstanceNorm3d(10, affine=True),
        nn.LeakyReLU(0.1),
        nn.AvgPool3d(2),
        nn.Flatten(),
        nn.Linear(80, 5),
    )


class GroupNormBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


def groupnorm_resnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        GroupNormBlock(8, 8, 4),
        nn.MaxPool2d(2),
        GroupNormBlock(8, 12, 3),
        GroupNormBlock(12, 12, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


class SqueezeExcite(nn.Module):
    """Channel gates from two linear layers, as the paper has them."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, squeezed)
        self.excite = nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class SEBlock(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(width, width), SqueezeExcite(width, squeezed))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def se_net() -> nn.Sequential:
    return nn.Sequential(
        conv_block(3, 10),
        SEBlock(10, 4),
        nn.MaxPool2d(2),
        conv_block(10, 14),
        SEBlock(14, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(14, 5),
    )


def super_resolution(factor: int = 2) -> nn.Sequential:
    """ESPCN, with a pixel shuffle inside as well as at the end."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(12, 6 * factor**2, 3, padding=1),
        nn.PixelShuffle(factor),
        nn.ReLU(),
        nn.Conv2d(6, factor**2, 3, padding=1),
        nn.PixelShuffle(factor),
    )


class Autoencoder(nn.Module):
    """Up by interpolation; two outputs, the reconstruction and the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ELU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ELU()
        )
        self.bottleneck = nn.Conv2d(12, 4, 1)
        self.decode = nn.Sequential(
            nn.Conv2d(4, 12, 1),
            nn.Softplus(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect"),
            nn.Hardswish(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(8, 1, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.bottleneck(self.encode(x))
        return self.decode(code), code


class TorchTransformer(nn.Module):
    """torch's own encoder layers, norm first or last."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.position = nn.Parameter(torch.randn(7, 16))
        layer = nn.TransformerEncoderLayer(
            16, 4, 24, activation="gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens) + self.position)[:, 0])


class CrossAttention(nn.Module):
    """Two inputs of different widths; keys and values of their own widths."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 16)
        self.memory = nn.Linear(5, 10)
        self.attention = nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        query, memory = self.query(x), F.relu(self.memory(memory))
        attended, _ = self.attention(query, memory, memory, need_weights=False)
        return self.head(query + attended)


class TiedLanguageModel(nn.Module):
    """The embedding is the output layer too; attention written out, rotary-free and causal."""

    def __init__(self, vocabulary: int = 23, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.gate = nn.Linear(width, 20), nn.Linear(width, 20)
        self.down = nn.Linear(20, width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (
            layer(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        attended = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        x = x + self.down(self.up(x) * F.silu(self.gate(x)))
        return F.linear(x, self.embed.weight)


class ChannelMean(nn.Module):
    """A statistic over channels: no channel goes without changing it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv_block(3, 8), conv_block(8, 10)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        spatial = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1).sum(1, True)
        return self.head(self.body(x * spatial.sigmoid()))


class Shared(nn.Module):
    """One convolution and one norm used at two places, before and after a split."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.stem(x)).chunk(2, dim=1)
        a = F.relu(self.norm(self.shared(a)))
        b = F.relu(self.norm(self.shared(a + b)))
        return self.head(torch.cat([a, b], 1).mean((2, 3)))
