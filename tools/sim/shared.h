// What every access to shared memory must obey. `what` is the access, for the message; each throws
// Fault.
#pragma once

#include <cstdint>
#include <string>

#include "tools/sim/model.h"

namespace kiln::sim {

// Where an address of the running CTA lies in its shared memory.
std::uint32_t own_offset(std::uint32_t address, const Where& where);

// The bytes lie in the CTA's shared memory, at a multiple of `unit`.
void check_range(const Cta& cta, std::uint32_t address, std::uint32_t bytes, std::uint32_t unit,
                 const char* what, const Where& where);

// The piece of asynchronous work that fills the word.
std::string filler_of(const Cta& cta, std::uint32_t word);

// Nobody may be writing or reading where something is going to be written.
void check_writable(const Cta& cta, std::uint32_t address, std::uint32_t bytes, const char* what,
                    const Where& where);

// What the asynchronous proxy touches must not have been written by ordinary stores since a fence.
void check_fenced(const Cta& cta, std::uint32_t address, std::uint32_t bytes, const char* what,
                  const Where& where);

}  // namespace kiln::sim
