"""The cache's promises: C1 to C8 and C12."""

from parts import Part

CACHE = "{build}/tests/cache/cache_test"
ENGINES = "{build}/tests/cache/contract_test"


def mutant(promise, protection, spec):
    """The same tests without a protection have to fail."""
    return Part(promise, f"the tests notice when {protection} is built in",
                ("python3", "{source}/tests/cache/mutant_test.py", "{build}/tests/cache/mutant_" + protection, spec),
                small_s=3, full_s=3)


PARTS = [
    Part("C1", "damage of every kind to three entries", (CACHE, "[C1]"), small_s=5, full_s=90),
    mutant("C1", "no_checksum", "[C1]"),
    Part("C2", "every system call of the cache fails in every way", (CACHE, "[C2]"), small_s=20, full_s=20),
    Part("C2", "every system call of an engine's cache fails", (ENGINES, "[C2]"), small_s=2, full_s=15),
    mutant("C2", "errors_throw", "[C2]"),
    Part("C3", "kills at every system call, kills at random, power losses", (CACHE, "[C3]"), small_s=20, full_s=200),
    mutant("C3", "write_in_place", "[C3][crash]"),
    mutant("C3", "unlink_first", "[C3][replace]"),
    Part("C4", "processes start cold on one directory", (ENGINES, "[C4]"), small_s=5, full_s=120),
    mutant("C4", "no_recheck", "[C4]"),
    Part("C5", "processes start cold on a network file system", (ENGINES, "[C5]"), small_s=5, full_s=180),
    mutant("C5", "reread_after_publish", "[C5]"),
    Part("C6", "many writers under one limit", (CACHE, "[C6]"), small_s=6, full_s=610),
    Part("C7", "inputs of a compile and keys", (ENGINES, "[C7]"), small_s=10, full_s=60),
    Part("C8", "processes compile the same kernels", (ENGINES, "[C8]"), small_s=10, full_s=900),
    Part("C12", "owners, modes, links and ancestors", (CACHE, "[trust]"), small_s=5, full_s=5),
]
