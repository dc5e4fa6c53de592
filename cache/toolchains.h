// The recorded toolchains of a root: small files whose name is the SHA-256 of their content, so
// that a damaged one is recognised. Internal to cache/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/root.h"

namespace kiln::cache {

inline constexpr std::size_t kMaxToolchainBytes = 4096;
inline constexpr std::size_t kMaxToolchains = 64;

struct RecordedToolchain {
  std::string text;
  std::int64_t modified_ns = 0;
};

// False when it could not be stored. A text that is there already becomes the newest. The oldest
// go when there are too many.
bool write_toolchain(const Root& root, const std::string& text, bool sync);

// Newest first; damaged and untrusted ones are left out.
std::vector<RecordedToolchain> read_toolchains(const Root& root);

}  // namespace kiln::cache
