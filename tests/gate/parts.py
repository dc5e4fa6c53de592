"""What a part of the gate is, and where parts come from.

Every *_parts.py in this folder has a list PARTS. A part is one command over built test programs; it
exits with 0 (passed), 4 (skipped, the reason in a line "SKIPPED: ...") or anything else (failed).
What it did stands in its lines "FIGURES: ...". KILN_GATE_SCALE tells it how much to do.
"""

import dataclasses
import importlib
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SKIPPED = 4

# In the words of the README, which a test compares with these.
PROMISES = {
    "C1": "The cache never changes a result: a hit is exactly what a compile of the same key gave, or it is a miss.",
    "C2": "The cache never makes a call fail: on any error of the disk Kiln compiles and goes on.",
    "C3": "Killing a process at any instant leaves every entry whole or absent; nothing needs cleaning up.",
    "C4": "Any number of processes may start cold on one cache; all succeed, and each kernel is compiled about once.",
    "C5": "On network file systems no process depends on seeing what another has written.",
    "C6": "Eviction keeps the directory under its limit and never takes a young entry or breaks a reader.",
    "C7": "Whatever can change a kernel's code changes its key, and nothing else does.",
    "C8": "The same key gives the same cubin, the same operands the same bits.",
    "C9": "Inside a stream capture a launch never loads: a miss is NOT_READY and the capture stays valid.",
    "C10": "After fork the child gets a clean error, or works if the parent had no engine; never a hang.",
    "C11": "Every call may run on any thread; the caller's CUDA context is the same afterwards.",
    "C12": "A cache that others could have written is refused, not used.",
    "C13": "Damaged or hostile files never crash, hang, or take more than 64 MiB to refuse.",
    "C14": "Bad tuned values never reach a launch.",
    "C15": "Minor releases only add to the C API: old programs run with new libraries.",
    "C16": "NaN, infinities and tails behave as documented; padding is never read for a result nor written.",
}

TREES = ("release", "asan", "tsan", "fuzz")  # builds that parts run in; see `gate --help`


@dataclasses.dataclass(frozen=True)
class Part:
    promise: str        # "C11"
    title: str          # what it does, in a few words
    command: tuple      # words; {build} is the part's build folder, {source} the repository's root
    small_s: float      # about what it takes at each scale; for the time budget and the time limit
    full_s: float
    tree: str = "release"
    needs: tuple = ()   # of "gpu", "root"; the rest a part finds out for itself and exits with 4
    environment: dict = dataclasses.field(default_factory=dict)

    def seconds(self, scale):
        return self.full_s if scale == "full" else self.small_s


def catch(program, spec):
    """The command that runs the Catch2 cases of `spec` (a name or a tag) of a test program."""
    return ("{build}/tests/" + program, spec)


def load_parts(folder=HERE):
    parts = []
    for path in sorted(folder.glob("*_parts.py")):
        parts += importlib.import_module(path.stem).PARTS
    for part in parts:
        if part.promise not in PROMISES or part.tree not in TREES or set(part.needs) - {"gpu", "root"}:
            raise ValueError(f"tests/gate: the part '{part.title}' names an unknown promise, tree or need: {part}")
    order = list(PROMISES)
    return sorted(parts, key=lambda part: order.index(part.promise))
