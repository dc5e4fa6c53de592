// Tells a forked child from the process that created engines: neither CUDA nor NVRTC survives a
// fork, and locks may be copied while held, so a child must turn back before it touches anything.
#pragma once

namespace kiln::runtime {

// From the first call on, children of this process see is_forked(). Called when an engine is made.
void mark_process();

// A memory read, no system call. False until mark_process() ran in this process or an ancestor.
bool is_forked() noexcept;

}  // namespace kiln::runtime
