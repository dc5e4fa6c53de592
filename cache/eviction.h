// What may go from a writable root, and removing it; evictor.h says when. Internal to cache/. Never
// on the path of a lookup.
//
// Sizes come from a scan each time; no running total is kept, since one that drifts is worse than
// none. Errors are passed over: what cannot be removed now is removed by a later run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/root.h"
#include "cache/types.h"

namespace kiln::cache {

struct ScannedEntry {
  std::string path;  // relative to the root
  Digest key{};      // from the name
  Identity identity;
};

// Everything of layout v1 that has an entry's name, sorted by path. Contents are not read, and it
// need not be a regular file.
std::vector<ScannedEntry> scan_entries(const Root& root);

// Removes entries, the longest unused first, until at most this much is left. One that was
// published or touched within the last 60 s stays, whatever the limits say.
PruneResult remove_oldest(const Root& root, std::uint64_t keep_bytes, std::uint64_t keep_entries);

// Removes temporary and quarantined files that are older than an hour, or all of them. Returns
// their number.
std::uint64_t sweep_leftovers(const Root& root, bool all);

// Removes every entry of this and any other layout version, and all leftovers. Lock files and
// recorded toolchains of this layout stay.
PruneResult remove_everything(const Root& root);

// Removes the oldest files of one directory until at most `keep` are left.
void keep_newest(const Root& root, const std::string& directory, std::size_t keep);

}  // namespace kiln::cache
