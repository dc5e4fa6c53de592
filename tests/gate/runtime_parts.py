"""The gate's parts for forks, threads, parsers, the C API and the GPU."""

from parts import Part, catch

PARTS = [
    Part("C10", "forks during compiles, loads and launches", catch("runtime/fork_test", "[fork]"), 10, 120),
    Part("C11", "64 threads on two devices under the thread sanitizer", catch("runtime/stress_test", "[stress]"),
         30, 640, tree="tsan", environment={"TSAN_OPTIONS": "halt_on_error=1 second_deadlock_stack=1"}),
    Part("C11", "64 threads on two devices, as users run it", catch("runtime/stress_test", "[stress]"), 6, 605),
]
