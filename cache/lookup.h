// Looking for one key in one root. Internal to cache/. Changes nothing on disk.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "cache/digest.h"
#include "cache/entry.h"
#include "cache/root.h"

namespace kiln::cache {

// In ascending order of weight: when several roots were searched, the heaviest reason counts.
enum MissReason : std::size_t {
  kAbsent,
  kIo,
  kToolchain,
  kKey,
  kTruncated,
  kFormat,
  kChecksum,
  kUntrusted,
  kMissReasons
};
std::string_view words(MissReason reason);  // completes the sentence "the entry is not used, ..."

struct Found {
  std::optional<Entry> entry;
  MissReason reason = kAbsent;  // when there is no entry
  ReadResult file;
};

Found find_in(const Root& root, const Digest& key, const Digest& toolchain);

}  // namespace kiln::cache
