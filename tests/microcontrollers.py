"""C on microcontrollers that qemu emulates: what it computes, and what it costs.

    found = run(BOARDS["Cortex-M4"], Network("lenet", [folder / "lenet.c"], x, outputs=10), folder)
    found.outputs, found.flash, found.ram, found.instructions

A network is C with a function (input, output, arena). It is built freestanding, with libgcc alone,
beside the few files in microcontroller/: start-up code, files by semihosting, and a loop that reads
inputs, infers, and writes outputs. Flash is what the program has more than one without the network,
so that what is needed of libgcc counts. RAM is the arena, variables, and the stack below main,
measured by painting it. Instructions are counted by the board's own clock, which `-icount` ties to
them; a loop of a known number says how many a tick is. They repeat exactly. `on_host` runs networks
on this machine, under sanitizers.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SOURCES = Path(__file__).parent / "microcontroller"
KNOWN = 100_000  # instructions, as in microcontroller/board.h
STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")
SANITIZED = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Board:
    """A machine of qemu, its memory, and how the compiler is told of its processor."""

    machine: str
    processor: str
    flash: tuple[int, str]  # address and size
    ram: tuple[int, str]

    @property
    def arm(self) -> bool:
        return "cortex" in self.processor

    @property
    def tools(self) -> tuple[str, str]:
        """The compiler and the emulator."""
        if self.arm:
            return "arm-none-eabi-gcc", "qemu-system-arm"
        return "riscv64-unknown-elf-gcc", "qemu-system-riscv32"


BOARDS = {
    "Cortex-M0": Board("microbit", "-mcpu=cortex-m0 -mthumb", (0, "256K"), (0x20000000, "16K")),
    "Cortex-M3": Board("mps2-an385", "-mcpu=cortex-m3 -mthumb", (0, "4M"), (0x20000000, "4M")),
    "Cortex-M4": Board(
        "mps2-an386",
        "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
        (0, "4M"),
        (0x20000000, "4M"),
    ),
    "Cortex-M33": Board(
        "mps2-an505",
        "-mcpu=cortex-m33 -mthumb -mfpu=fpv5-sp-d16 -mfloat-abi=hard",
        (0x10000000, "4M"),
        (0x38000000, "2M"),
    ),
    "RISC-V": Board(
        "virt",
        "-march=rv32imac -mabi=ilp32 -misa-spec=2.2",
        (0x80000000, "4M"),
        (0x80400000, "4M"),
    ),
}


@dataclass(frozen=True, eq=False)
class Network:
    """C that infers, and the inputs to run it on.

    Attributes:
        name: NAME.h lies beside the first source, with name_infer and NAME_ARENA_BYTES.
        sources: C files.
        x: an input in each row, float32, or uint8 for name_infer_u8.
        outputs: float32 numbers of each.
    """

    name: str
    sources: Sequence[Path]
    x: np.ndarray
    outputs: int

    @property
    def header(self) -> Path:
        return self.sources[0].with_name(f"{self.name}.h").absolute()

    @property
    def call(self) -> str:
        return f"{self.name}_infer" + ("_u8" if self.x.dtype == np.uint8 else "")


@dataclass(frozen=True, eq=False)
class Cost:
    """What a network computed, float32 [n, outputs], and what it cost.

    Flash and RAM are bytes; instructions are those of the longest and of the shortest inference.
    """

    outputs: np.ndarray
    flash: int
    arena: int
    stack: int
    variables: int
    instructions: int
    least: int

    @property
    def ram(self) -> int:
        return self.arena + self.stack + self.variables

    def to_dict(self) -> dict[str, int]:
        """What it cost, as plain values."""
        numbers = {key: value for key, value in vars(self).items() if key != "outputs"}
        return {**numbers, "ram": self.ram}


def run(board: Board, network: Network, folder: Path, flags: Sequence[str] = ("-Os",)) -> Cost:
    """Build a network for a board, and run it there on all of its inputs.

    Args:
        board: of `BOARDS`.
        network: with its inputs.
        folder: for what is built, made if it is not there.
        flags: of the compiler, beside those of the board.
    """
    compiler, emulator = board.tools
    build = [compiler, *board.processor.split(), *flags, "-ffreestanding", "-nostdlib"]
    build += ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-T", "memory.ld"]
    build += [str(SOURCES / ("arm.c" if board.arm else "riscv.c"))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.ld").write_text(
        (SOURCES / "memory.ld.in")
        .read_text()
        .format(entry="reset" if board.arm else "start", flash=board.flash, ram=board.ram)
    )
    clock = "0xFFFFFFu" if board.arm else "0xFFFFFFFFu"
    sizes = []
    for program, call in (("empty.elf", ""), ("network.elf", network.call)):
        _describe([network], folder, clock, _static(network), [call])
        _build(build, network.sources if call else [], folder, program)
        sizes.append(_sizes(compiler, folder / program))
    text, data, zero = np.subtract(sizes[1], sizes[0]).tolist()
    qemu = [emulator, "-M", board.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    qemu += ["-icount", "shift=3", "-semihosting-config", "enable=on,target=native"]
    qemu += [] if board.arm else ["-bios", "none"]
    outputs, (known, least, most, stack, arena) = _ran(
        [*qemu, "-kernel", "network.elf"], [network], folder
    )
    return Cost(
        outputs[0],
        flash=text + data,
        arena=arena,
        stack=stack,
        variables=data + zero,
        instructions=round(most * KNOWN / known),
        least=round(least * KNOWN / known),
    )


def on_host(
    networks: Sequence[Network], folder: Path, flags: Sequence[str] = (*STRICT, *SANITIZED)
) -> list[np.ndarray]:
    """The outputs of networks, built into one program of this machine's gcc.

    Each has memory of exactly its own size, so that a sanitizer sees what is beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    memory = (
        "#include <stdlib.h>\n#define MEMORY(name, bytes) malloc(bytes)\n#define RELEASE free\n"
    )
    _describe(networks, folder, "0u", memory, [network.call for network in networks])
    sources = [source for network in networks for source in network.sources]
    _build(["gcc", *flags, str(SOURCES / "host.c")], sources, folder, "networks")
    return _ran(["./networks"], networks, folder)[0]


def _static(network: Network) -> str:
    """Memory of a program that has no malloc."""
    sizes = {
        "input": network.x[0].nbytes,
        "output": 4 * network.outputs,
        "arena": f"{network.name.upper()}_ARENA_BYTES",
    }
    arrays = (f"static uint64_t {k}_memory[({n} + 7) / 8 + 1];\n" for k, n in sizes.items())
    return (
        "".join(arrays) + "#define MEMORY(name, bytes) (void *)name\n#define RELEASE(p) (void)p\n"
    )


def _describe(
    networks: Sequence[Network], folder: Path, clock: str, memory: str, calls: Sequence[str]
) -> None:
    """Write network.h, from which main.c knows what there is to run."""
    lines = [f'#include "{network.header}"\n' for network in networks]
    lines += [memory, f"#define CLOCK_MASK {clock}\n"]
    lines += ["typedef void inference(const void *, float *, void *);\n"]
    for k, call in enumerate(calls):
        body = f"{call}(x, y, arena);" if call else "(void)x, (void)y, (void)arena;"
        lines += [f"static void infer_{k}(const void *x, float *y, void *arena) {{ {body} }}\n"]
    lines += ["static const struct network {\n    uint32_t examples, input_bytes, output_bytes, "]
    lines += ["arena_bytes;\n    inference *infer;\n} networks[] = {\n"]
    for k, network in enumerate(networks):
        sizes = f"{len(network.x)}, {network.x[0].nbytes}, {4 * network.outputs}"
        lines += [f"    {{{sizes}, {network.name.upper()}_ARENA_BYTES, infer_{k}}},\n"]
    (folder / "network.h").write_text("".join(lines) + "};\n")


def _build(command: Sequence[str], sources: Sequence[Path], folder: Path, program: str) -> None:
    _call(
        [*command, "-I.", str(SOURCES / "main.c"), *(str(source.absolute()) for source in sources)]
        + ["-o", program]
        + ([] if command[0] == "gcc" else ["-lgcc"]),
        folder,
    )


def _ran(
    command: Sequence[str], networks: Sequence[Network], folder: Path
) -> tuple[list[np.ndarray], list[int]]:
    """The outputs of each network, and what main.c wrote of costs."""
    (folder / "in.bin").write_bytes(b"".join(network.x.tobytes() for network in networks))
    _call(command, folder)
    y, outputs = np.fromfile(folder / "out.bin", np.float32), []
    for network in networks:
        mine, y = np.split(y, [len(network.x) * network.outputs])
        outputs.append(mine.reshape(len(network.x), network.outputs))
    return outputs, np.fromfile(folder / "cost.bin", np.uint32).tolist()


def _sizes(compiler: str, program: Path) -> list[int]:
    """Bytes of code and constants, of variables with values, and of those that are zero."""
    told = _call([compiler.replace("gcc", "size"), program.name], program.parent)
    return [int(n) for n in told.splitlines()[1].split()[:3]]


def _call(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise AssertionError(
            f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"[:5000]
        )
    return done.stdout


def missing(board: Board | None = None) -> str:
    """Why there is nothing to run on, for a test to be skipped with; empty if all is there."""
    needed = ("gcc",) if board is None else board.tools
    absent = [tool for tool in needed if shutil.which(tool) is None]
    return f"needs {' and '.join(absent)}" if absent else ""
