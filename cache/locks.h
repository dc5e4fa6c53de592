// Advisory locks between processes. Internal to cache/.
//
// A lock saves work and nothing else: the kernel drops it when its holder dies, a holder that
// hangs costs the waiters their timeout, and on a network file system, where flock() may lock
// nothing or wait for a server, none is taken. Lock files are never removed: removing one while
// others open it would let two processes hold "the" lock.
#pragma once

#include <cstdint>
#include <string>

#include "cache/root.h"
#include "cache/types.h"

namespace kiln::cache {

struct LockResult {
  KeyLock lock;
  bool waited = false;     // someone else held it at first
  bool timed_out = false;  // and still did at the end
};

// Waits at most timeout_ms; 0 tries once.
LockResult acquire_lock(const Root& root, const std::string& path, std::uint32_t timeout_ms);

}  // namespace kiln::cache
