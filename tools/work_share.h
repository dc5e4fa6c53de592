// How work is shared: among machines (--shard I/N) and among the CPUs of this one (--jobs).
#pragma once

#include <cstdint>
#include <string>

#include "tools/args.h"

namespace kiln::tools {

struct Shard {
  std::int64_t index = 1;  // from 1
  std::int64_t count = 1;
};

// The flag --shard, 1/1 without it. Throws Error{kInvalidArgument}.
Shard read_shard(const Args& args);
std::string describe(const Shard& shard);  // "1/4"

// That this process may run on, at most 256.
std::int64_t usable_cpus();

}  // namespace kiln::tools
