"""Small networks for PyTorch, with everything that modules do. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """As in a ResNet: one ReLU, in place, is called twice, and a Sequential may be left out."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if stride != 1:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """A ResNet with two stages of one and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(Block(2, 2))
        self.layer2 = nn.Sequential(Block(2, 3, 2), Block(3, 3))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1)
        return self.fc(self.dropout(x))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        split = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).reshape(n, t, c))


class Mlp(nn.Module):
    """One Dropout is called twice, and leaves no node behind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class VitBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A vision transformer, with a list of blocks, and one of torch's own attention layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.ModuleList([VitBlock(4), VitBlock(4)])
        self.mha = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        y, _ = self.mha(x, x, x)
        return self.head(self.norm(x + y)[:, 0])


class Double(nn.Sequential):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, 1, 1), nn.ReLU(inplace=True), nn.LeakyReLU(0.1)
        )


class Encoder(nn.Module):
    """Returns two tensors, one of which is the output of a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a = Double(1, 2)
        self.pool = nn.MaxPool2d(2)
        self.b = Double(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.a(x)
        return skip, self.b(self.pool(skip))


class UNet(nn.Module):
    """A U-Net of one level with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.up = nn.ConvTranspose2d(3, 2, 2, 2)
        self.dec = Double(4, 2)
        self.head = nn.Conv2d(2, 2, 1)
        self.edge = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip, deep = self.encoder(x)
        x = self.dec(torch.cat([skip, self.up(deep)], 1))
        return self.head(x), self.edge(x)


class Wrap(nn.Module):
    """`inner_1` is what the older exporter would also call a second call of `inner`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ELU())
        self.inner_1 = nn.Sequential(nn.Linear(4, 4), nn.ELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner_1(self.inner(x)) * 2


class Calls(nn.Module):
    """Modules that are called several times, in every way, and modules that are not called."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.lin = nn.Linear(4, 4)
        self.act = nn.Sigmoid()
        self.wrap = Wrap()
        self.drop = nn.Dropout()
        self.id = nn.Identity()
        self.named = nn.ModuleDict({"a": nn.Linear(4, 4), "b-c": nn.Linear(4, 4)})
        self.back = nn.Module()
        self.back.layers = nn.ModuleList([Wrap()])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.two(x) - self.two(y)
        for _ in range(2):
            x = self.block(x)
        x = self.lin(self.lin(x))
        x = torch.relu(self.act(self.act(x)) + self.wrap(x))
        x = self.named["b-c"](self.drop(self.named["a"](self.wrap(x))))
        return self.id(self.back.layers[0](x))


class Tail(nn.Module):
    """What exporters merge: a normalization outside of its convolution's Sequential, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.ZeroPad2d(1), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)
        )
        self.norm = nn.BatchNorm2d(2)
        self.act = nn.ReLU()
        self.clip = nn.Hardtanh(-0.3, 0.7)
        self.turn = nn.Sequential(nn.Tanh(), nn.Flatten(2))
        self.back = nn.Sequential(nn.Unflatten(2, (2, 8)), nn.Sigmoid())
        self.relu = nn.ReLU()
        self.relu_1 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.back(self.turn(self.clip(self.act(self.norm(self.stem(x))))))
        return self.relu(x - 1) + self.relu(2 * x) + self.relu_1(1 - x)


SHAPES: Mapping[type[nn.Module], tuple[tuple[int, ...], ...]] = {
    ResNet: ((2, 3, 32, 32),),
    Vit: ((2, 3, 8, 8),),
    UNet: ((2, 1, 8, 8),),
    Calls: ((2, 4), (2, 4)),
    Tail: ((2, 3, 6, 6),),
}
"""The networks, with the shapes of their inputs."""

EXPORTS: Mapping[str, Mapping[str, Any]] = {
    "older": {"dynamo": False},
    "older-whole": {
        "dynamo": False,
        "do_constant_folding": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
    },
    "newer": {"dynamo": True, "external_data": False},
    "newer-whole": {"dynamo": True, "external_data": False, "optimize": False},
}
"""The exporters, and how each is asked to merge nothing, with the arguments of `torch.onnx.export`.
"""


def seeded(net: type[nn.Module]) -> nn.Module:
    """The network in evaluation mode, with weights that differ from one parameter to the next."""
    torch.manual_seed(0)
    made = net().eval()
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made


def inputs(net: type[nn.Module]) -> tuple[Tensor, ...]:
    """Inputs for the network, the same each time."""
    torch.manual_seed(1)
    return tuple(torch.randn(shape) for shape in SHAPES[net])


def hooked(model: nn.Module, given: tuple[Tensor, ...]) -> dict[str, list[Tensor]]:
    """What a forward hook on each module sees, by the name of the call: `relu`, `relu#1`.

    Each has the tensors that the module returns.
    """
    found: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if not name:
            continue

        def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            number = counts.get(name, 0)
            counts[name] = number + 1
            values = output if isinstance(output, tuple) else (output,)
            tensors = [value.clone() for value in values if isinstance(value, Tensor)]
            found[f"{name}#{number}" if number else name] = tensors

        handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(*given)
    for handle in handles:
        handle.remove()
    return found


def export(model: nn.Module, given: tuple[Tensor, ...], path: str, how: str) -> None:
    """Write the model with one of the exporters."""
    names = ["x", "y"][: len(given)]
    arguments = {**EXPORTS[how], "input_names": names}
    if isinstance(model, ResNet):  # of any number of images
        if arguments["dynamo"]:
            arguments["dynamic_shapes"] = ({0: torch.export.Dim("n")},)
        else:
            arguments["dynamic_axes"] = {"x": {0: "n"}}
    torch.onnx.export(model, given, path, **arguments)
