// Eviction runs after a publish, when this process has published 1/512 of a limit since it last
// did, and after its first publish when nobody did within a minute (the time stamp of lock/evict).
// It looks at the whole directory and, when that holds more than 7/8 of a limit, removes down to
// 7/10. A lookup only refreshes the time stamp of its entry, at most once an hour, so that removal
// by age removes the unused.
//
// Hence W writers at once, W <= 64, leave at most limit + W x (largest entry), not counting entries
// younger than a minute, which stay. For let s be the last look to begin among those that ended.
// What was there when it began it has seen, and has left at most 7/8 of the limit. What was not
// there each writer has published after its own last look, since that did not begin later: at most
// 1/512 of the limit and one entry. 7/8 + 64/512 = 1. (A writer that has not looked yet is one of
// those that began within a minute of s.)
#include "cache/evictor.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <limits>
#include <vector>

#include "cache/eviction.h"
#include "cache/files.h"
#include "cache/locks.h"

namespace kiln::cache {
namespace {

constexpr std::int64_t kMinuteNs = std::int64_t{60} * 1'000'000'000;
// The three numbers of the bound above.
constexpr std::uint64_t kLookShare = 512;
constexpr std::uint64_t kSlackShare = 8;
constexpr std::uint64_t kMostWriters = 64;
static_assert(kMostWriters * kSlackShare <= kLookShare,
              "what so many writers publish between two looks fits into the slack");
constexpr std::uint32_t kEvictionLockWaitMs = 200;
constexpr std::uint32_t kPruneLockWaitMs = 1000;

// Whether nobody has looked at the directory's size for a minute.
bool is_neglected(const Root& root) {
  struct stat status;
  if (root.files->fstatat(root.at(), kEvictionLock, &status, AT_SYMLINK_NOFOLLOW) != 0) return true;
  const std::int64_t age = now_ns() - modified_ns(status);
  return age > kMinuteNs || age < -kMinuteNs;
}

}  // namespace

std::uint64_t Evictor::after_publish(const Root& root, std::uint64_t bytes) {
  const std::uint64_t new_bytes = bytes_since_look_ += bytes;
  const std::uint64_t new_entries = ++entries_since_look_;
  const bool grown = new_bytes > max_bytes_ / kLookShare || new_entries > max_entries_ / kLookShare;
  const bool first = !published_before_.exchange(true);
  return grown || (first && is_neglected(root)) ? evict(root) : 0;
}

// Someone else who is at it may have begun before our last publish, so this one does not leave the
// work to him; two at once remove nothing that one would not.
std::uint64_t Evictor::evict(const Root& root) {
  const LockResult lock = acquire_lock(root, kEvictionLock, kEvictionLockWaitMs);
  root.files->utimensat(root.at(), kEvictionLock, nullptr, AT_SYMLINK_NOFOLLOW);
  bytes_since_look_ = 0;
  entries_since_look_ = 0;

  std::uint64_t bytes = 0;
  const std::vector<ScannedEntry> entries = scan_entries(root);
  for (const ScannedEntry& entry : entries) {
    bytes += static_cast<std::uint64_t>(entry.identity.bytes);
  }
  const auto most = [](std::uint64_t limit) { return limit - limit / kSlackShare; };
  const auto left = [&](std::uint64_t limit) { return most(limit) - most(limit) / 5; };
  std::uint64_t removed = 0;
  if (bytes > most(max_bytes_) || entries.size() > most(max_entries_)) {
    removed = remove_oldest(root, left(max_bytes_), left(max_entries_)).removed_entries;
  }
  sweep_leftovers(root, false);
  return removed;
}

PruneResult prune_root(const Root& root, std::uint64_t max_bytes, bool everything) {
  // Two at once would only do the same work twice, so this one goes on without the lock as well.
  const LockResult lock = acquire_lock(root, kEvictionLock, kPruneLockWaitMs);
  if (everything) return remove_everything(root);
  PruneResult result = remove_oldest(root, max_bytes, std::numeric_limits<std::uint64_t>::max());
  result.removed_other = sweep_leftovers(root, false);
  return result;
}

}  // namespace kiln::cache
