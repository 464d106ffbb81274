"""Architectures to try everything on: the layer code of the libraries, few layers, small widths.

    model, example_inputs = build(entry)

An entry whose library is not installed skips the test that builds it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from libraries import library
from torch import Tensor, nn
from zoo_networks import (
    Autoencoder,
    ChannelMean,
    CrossAttention,
    LastState,
    RecurrentClassifier,
    Shared,
    TiedLanguageModel,
    TorchTransformer,
    UNet,
    WaveNet,
    groupnorm_resnet,
    radio,
    se_net,
    super_resolution,
    volume,
)

from lissom.models import lenet5, mlp

ExampleInputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Args:
        name: its name, also of the test.
        make: builds it with random weights, in evaluation mode; skips without its library.
        example_inputs: makes random inputs, two of each, as small as still leaves the last maps
            2 × 2 or so.
        rounds: the network rounds to float32 inside, whatever its own precision.
    """

    name: str
    make: Callable[[], nn.Module]
    example_inputs: Callable[[], ExampleInputs]
    rounds: bool = False


def build(
    entry: Entry, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, ExampleInputs]:
    """The network with every parameter redrawn, and its inputs, in this precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, example_inputs = entry.make(), entry.example_inputs()
    randomise_(model, seed)
    return model.to(dtype), tuple(
        x.to(dtype) if x.is_floating_point() else x for x in example_inputs
    )


@torch.no_grad()
def randomise_(model: nn.Module, seed: int) -> None:
    """Leave nothing zero, one or so small that the output hardly depends on the input.

    Biases and β ~ N(0, 0.1²), γ, layer scales and slopes ~ U(0.5, 1.5), all other weights
    ~ N(0, 1.5/fan in); running means ~ N(0, 0.1²), running variances ~ U(0.5, 1.5).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        constant = bool((parameter == parameter.flatten()[0]).all())
        if "bias" in name.rpartition(".")[-1]:
            parameter.normal_(0, 0.1, generator=generator)
        elif constant and parameter.any():
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:
            fan_in = parameter.numel() / parameter.shape[0]
            parameter.normal_(0, (1.5 / fan_in) ** 0.5, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)


def images(size: int, channels: int = 3) -> Callable[[], ExampleInputs]:
    return lambda: (torch.randn(2, channels, size, size),)


def numbers(*shape: int) -> Callable[[], ExampleInputs]:
    return lambda: (torch.randn(2, *shape),)


def tokens(length: int = 7, vocabulary: int = 20) -> Callable[[], ExampleInputs]:
    return lambda: (torch.randint(vocabulary, (2, length)),)


# torchvision's widths are partly fixed; where they are, an eighth of them is built.


def vgg_bn() -> nn.Module:
    features = library("torchvision.models.vgg").make_layers(
        [8, "M", 12, "M", 16, 16, "M"], batch_norm=True
    )
    classifier = [nn.Linear(64, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 5)]
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *classifier)


def resnet(block: str, layers: list[int], **options: int) -> nn.Module:
    resnets = library("torchvision.models.resnet")

    class Narrow(resnets.ResNet):
        def _make_layer(self, block: Any, planes: int, *arguments: Any, **kwargs: Any) -> Any:
            return super()._make_layer(block, planes // 8, *arguments, **kwargs)

    # Basic blocks insist on 64 channels per group, so it is `planes` that shrinks, not the width.
    net = Narrow(getattr(resnets, block), layers, **options)
    net.fc = nn.Linear(net.fc.in_features // 8, 5)
    return net


def densenet() -> nn.Module:
    net = library("torchvision.models").DenseNet
    return net(4, (2, 2, 2, 2), num_init_features=8, bn_size=2, num_classes=5)


def shufflenet() -> nn.Module:
    net = library("torchvision.models").ShuffleNetV2
    return net([2, 2, 1], [8, 16, 24, 32, 40], num_classes=5)


def mobilenet_v2() -> nn.Module:
    net = library("torchvision.models").MobileNetV2
    setting = [[1, 8, 1, 1], [6, 16, 2, 2], [6, 24, 2, 2]]
    return net(5, width_mult=0.5, inverted_residual_setting=setting)


def mobilenet_v3() -> nn.Module:
    v3 = library("torchvision.models.mobilenetv3")
    setting = [
        v3.InvertedResidualConfig(*row, dilation=1, width_mult=1.0)
        for row in (
            (8, 3, 8, 8, True, "RE", 2),
            (8, 3, 24, 16, False, "RE", 2),
            (16, 5, 32, 16, True, "HS", 1),
        )
    ]
    return v3.MobileNetV3(setting, last_channel=24, num_classes=5)


def efficientnet() -> nn.Module:
    b = library("torchvision.models.efficientnet")
    setting = [
        b.MBConvConfig(1, 3, 1, 8, 8, 1),
        b.FusedMBConvConfig(4, 3, 2, 8, 16, 2),
        b.MBConvConfig(6, 5, 2, 16, 24, 2),
    ]
    return b.EfficientNet(setting, dropout=0.2, num_classes=5, last_channel=32)


def regnet() -> nn.Module:
    regnets = library("torchvision.models.regnet")
    parameters = regnets.BlockParams([1, 2], [8, 16], [4, 8], [1.0, 1.0], [2, 2], se_ratio=0.25)
    return regnets.RegNet(parameters, num_classes=5, stem_width=8)


def convnext() -> nn.Module:
    nets = library("torchvision.models.convnext")
    setting = [nets.CNBlockConfig(8, 12, 2), nets.CNBlockConfig(12, None, 1)]
    return nets.ConvNeXt(setting, num_classes=5)


def squeezenet() -> nn.Module:
    return library("torchvision.models").SqueezeNet("1_1", num_classes=5)


def mnasnet() -> nn.Module:
    return library("torchvision.models").MNASNet(0.1, num_classes=5)


def narrow(convolution: Any) -> Callable[..., nn.Module]:
    def make(inputs: int, outputs: int, **options: Any) -> nn.Module:
        return convolution(inputs if inputs == 3 else inputs // 8, outputs // 8, **options)

    return make


def googlenet() -> nn.Module:
    nets = library("torchvision.models.googlenet")
    convolution = narrow(nets.BasicConv2d)
    blocks = [convolution, partial(nets.Inception, conv_block=convolution), nets.InceptionAux]
    net = nets.GoogLeNet(5, aux_logits=False, blocks=blocks, init_weights=False)
    net.fc = nn.Linear(1024 // 8, 5)
    return net


def inception_v3() -> nn.Module:
    nets = library("torchvision.models.inception")
    convolution = narrow(nets.BasicConv2d)
    blocks = [
        convolution,
        *(partial(getattr(nets, f"Inception{kind}"), conv_block=convolution) for kind in "ABCDE"),
        nets.InceptionAux,
    ]
    net = nets.Inception3(5, aux_logits=False, inception_blocks=blocks, init_weights=False)
    net.fc = nn.Linear(2048 // 8, 5)
    return net


def vision_transformer() -> nn.Module:
    return library("torchvision.models").VisionTransformer(16, 8, 2, 3, 12, 20, num_classes=5)


def swin() -> nn.Module:
    net = library("torchvision.models").SwinTransformer
    return net([2, 2], 8, [2, 1], [2, 4], [4, 4], mlp_ratio=2.0, num_classes=5)


def timm(module: str, name: str, **options: Any) -> nn.Module:
    return getattr(library(f"timm.models.{module}"), name)(num_classes=5, **options)


def timm_mixer(block: str, **options: str) -> nn.Module:
    nets = library("timm.models.mlp_mixer")
    layers = {option: getattr(nets, name) for option, name in options.items()}
    return nets.MlpMixer(5, 16, 3, 8, 2, 12, 2.0, block_layer=getattr(nets, block), **layers)


def nfnet() -> nn.Module:
    nets = library("timm.models.nfnet")
    return nets.NormFreeNet(
        nets.NfCfg((1, 2), (16, 32), stem_chs=8, group_size=8, num_features=24), num_classes=5
    )


class FirstOutput(nn.Module):
    """A model of transformers that returns one plain tensor: logits or last hidden states."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, return_dict=False, **self.options)[0]


def transformer(name: str, config: str, sizes: dict[str, Any], **options: Any) -> nn.Module:
    make, settings = (getattr(library("transformers"), each) for each in (name, config))
    return FirstOutput(make(settings(**sizes)), **options)


BERT = dict(
    vocab_size=20,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=8,
)
DISTILBERT = dict(vocab_size=20, dim=12, n_layers=2, n_heads=3, hidden_dim=20, num_labels=5)
GPT2 = dict(
    vocab_size=20,
    n_embd=12,
    n_layer=2,
    n_head=3,
    n_positions=8,
    bos_token_id=0,
    eos_token_id=0,
)
LLAMA = dict(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=20,
    max_position_embeddings=8,
)
T5 = dict(
    vocab_size=20,
    d_model=12,
    d_kv=4,
    d_ff=20,
    num_layers=2,
    num_heads=3,
    attn_implementation="eager",  # torch 2.13 fails to write its fused attention to ONNX
)
WHISPER = dict(
    d_model=12,
    encoder_layers=2,
    encoder_attention_heads=3,
    encoder_ffn_dim=20,
    num_mel_bins=6,
    max_source_positions=7,
)
UNCACHED = dict(use_cache=False)


def whisper_encoder() -> nn.Module:
    whisper = library("transformers.models.whisper.modeling_whisper").WhisperEncoder
    return FirstOutput(whisper(library("transformers").WhisperConfig(**WHISPER)))


VIT = dict(img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=3, mlp_ratio=2.0)
SWIN = dict(
    img_size=32,
    patch_size=4,
    embed_dim=8,
    depths=(2, 1),
    num_heads=(2, 4),
    window_size=4,
    mlp_ratio=2.0,
)

# Their norms or rotary embeddings compute in float32, whatever the precision of the network.
ROUNDS = {"llama", "t5-encoder"}

_MAKERS: dict[str, tuple[Callable[..., nn.Module], Callable[[], ExampleInputs]]] = {
    # our own
    "mlp": (partial(mlp, [20, 16, 12, 5]), numbers(20)),
    "mlp-sigmoid": (partial(mlp, [20, 16, 12, 5], activation=nn.Sigmoid), numbers(20)),
    "lenet5": (lenet5, images(28, 1)),
    "unet": (UNet, images(16)),
    "lstm": (partial(RecurrentClassifier, nn.LSTM), tokens()),
    "gru": (partial(RecurrentClassifier, nn.GRU), tokens()),
    "lstm-one-way": (partial(RecurrentClassifier, nn.LSTM, bidirectional=False), tokens()),
    "lstm-last-state": (LastState, lambda: (torch.randn(7, 2, 6),)),
    "radio": (radio, numbers(2, 32)),
    "wavenet": (WaveNet, numbers(2, 16)),
    "volume": (volume, numbers(1, 8, 8, 8)),
    "groupnorm-resnet": (groupnorm_resnet, images(8)),
    "se-net": (se_net, images(8)),
    "super-resolution": (super_resolution, images(8, 1)),
    "autoencoder": (Autoencoder, images(16, 1)),
    "transformer-encoder": (partial(TorchTransformer, norm_first=False), tokens()),
    "transformer-encoder-norm-first": (partial(TorchTransformer, norm_first=True), tokens()),
    "cross-attention": (CrossAttention, lambda: numbers(3, 6)() + numbers(4, 5)()),
    "tied-language-model": (TiedLanguageModel, tokens()),
    "channel-mean": (ChannelMean, images(8)),
    "shared": (Shared, images(8)),
    # torchvision
    "vgg-bn": (vgg_bn, images(16)),
    "resnet18": (partial(resnet, "BasicBlock", [2, 2, 1, 1]), images(64)),
    "resnet50": (partial(resnet, "Bottleneck", [2, 1, 1, 1]), images(64)),
    "wide-resnet50": (
        partial(resnet, "Bottleneck", [2, 1, 1, 1], width_per_group=128),
        images(64),
    ),
    "resnext50": (
        partial(resnet, "Bottleneck", [2, 1, 1, 1], groups=4, width_per_group=16),
        images(64),
    ),
    "densenet": (densenet, images(64)),
    "shufflenet-v2": (shufflenet, images(64)),
    "mobilenet-v2": (mobilenet_v2, images(32)),
    "mobilenet-v3": (mobilenet_v3, images(32)),
    "efficientnet": (efficientnet, images(32)),
    "regnet-y": (regnet, images(32)),
    "convnext": (convnext, images(32)),
    "squeezenet": (squeezenet, images(64)),
    "mnasnet": (mnasnet, images(64)),
    "googlenet": (googlenet, images(64)),
    "inception-v3": (inception_v3, images(128)),
    "vit": (vision_transformer, images(16)),
    "swin": (swin, images(32)),
    # timm
    "timm-vit": (
        partial(timm, "vision_transformer", "VisionTransformer", **VIT, init_values=1.0),
        images(16),
    ),
    "timm-deit": (partial(timm, "deit", "VisionTransformerDistilled", **VIT), images(16)),
    "timm-eva": (
        partial(timm, "eva", "Eva", **VIT, swiglu_mlp=True, use_rot_pos_emb=True),
        images(16),
    ),
    "timm-swin": (partial(timm, "swin_transformer", "SwinTransformer", **SWIN), images(32)),
    "timm-swin-v2": (
        partial(timm, "swin_transformer_v2", "SwinTransformerV2", **SWIN),
        images(32),
    ),
    "timm-mixer": (partial(timm_mixer, "MixerBlock"), images(16)),
    "timm-resmlp": (partial(timm_mixer, "ResBlock", norm_layer="Affine"), images(16)),
    "timm-gmlp": (partial(timm_mixer, "SpatialGatingBlock", mlp_layer="GatedMlp"), images(16)),
    "timm-convmixer": (
        partial(timm, "convmixer", "ConvMixer", dim=12, depth=2, kernel_size=3, patch_size=4),
        images(16),
    ),
    "timm-cait": (partial(timm, "cait", "Cait", **VIT), images(16)),
    "timm-xcit": (partial(timm, "xcit", "Xcit", **VIT), images(16)),
    "timm-nfnet": (nfnet, images(32)),
    "timm-poolformer": (
        partial(timm, "metaformer", "MetaFormer", depths=(1, 2), dims=(8, 12)),
        images(32),
    ),
    "timm-ghostnet": (
        partial(
            timm,
            "ghostnet",
            "GhostNet",
            cfgs=[[[3, 16, 16, 0, 1]], [[3, 48, 24, 0.25, 2]], [[5, 72, 24, 0.25, 1]]],
        ),
        images(32),
    ),
    # transformers
    "bert": (
        partial(transformer, "BertForMaskedLM", "BertConfig", BERT),
        tokens(),
    ),
    "distilbert": (
        partial(transformer, "DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT),
        tokens(),
    ),
    "gpt2": (partial(transformer, "GPT2LMHeadModel", "GPT2Config", GPT2, **UNCACHED), tokens()),
    "llama": (
        partial(transformer, "LlamaForCausalLM", "LlamaConfig", LLAMA, **UNCACHED),
        tokens(),
    ),
    "t5-encoder": (partial(transformer, "T5EncoderModel", "T5Config", T5), tokens()),
    "whisper-encoder": (whisper_encoder, numbers(6, 14)),
}

ZOO = [
    Entry(name, lambda make=make: make().eval(), example_inputs, rounds=name in ROUNDS)
    for name, (make, example_inputs) in _MAKERS.items()
]

# One of each kind, for `make test`.
FEW = [
    entry
    for entry in ZOO
    if entry.name
    in "mlp lstm-one-way cross-attention tied-language-model resnet18 mobilenet-v3 vit gpt2".split()
]
