// A computer that loses its power: from one system call on nothing reaches the disk any more, and
// what was not synced before is lost in one way or another.
//
// The model knows the calls that the cache makes below its root: data is safe once fsync() of its
// file succeeded after the last write, and not before; a name that was made, moved or removed is
// never safe, since the cache syncs no directory. Names are lost from the last one backwards, as
// journalling file systems do.
#pragma once

#include <sys/types.h>

#include <array>
#include <set>
#include <string>
#include <vector>

#include "hooked_files.h"

namespace kiln::cache::test {

enum class Loss {
  kCut,         // files with unsynced data are empty
  kHalved,      // ... have lost their second half
  kZeroed,      // ... have their size and hold zeros
  kFilesGone,   // ... are gone
  kNamesGone,   // every change of names is undone
  kSomeOfBoth,  // half of the changes of names are undone, and data is cut
};
inline constexpr std::array kLosses = {Loss::kCut,       Loss::kHalved,    Loss::kZeroed,
                                       Loss::kFilesGone, Loss::kNamesGone, Loss::kSomeOfBoth};
const char* name(Loss loss);

class PowerLoss final : public CallHook {
 public:
  // The power goes before the call of this number, counted from 1. `root` need not exist yet; the
  // model keeps files of its own beside it.
  PowerLoss(std::string root, int at);

  int before(const Call& call) override;
  int after(const Call& call, bool succeeded) override;

  // Makes the directory what it would be after the next start. Once.
  void lose(Loss loss);
  // Entries that are damaged now and were not at the beginning.
  std::size_t damaged_entries() const;

 private:
  struct Change {
    enum { kMade, kMoved, kRemoved } what = kMade;
    std::string path;   // relative to the root
    std::string from;   // kMoved
    std::string saved;  // what had the path before, kept under another name; may be empty
  };

  std::string save(const std::string& path);
  void undo(const Change& change);
  void damage_unsynced(Loss loss);

  const std::string root_;
  const std::string saved_;  // directory
  const int at_;
  int calls_ = 0;
  int saves_ = 0;
  bool existed_ = false;  // what an openat() may create was there before
  std::string pending_;   // what the running call will replace or remove
  std::vector<Change> changes_;
  std::set<ino_t> unsynced_;
  std::set<std::string> damaged_before_;
};

}  // namespace kiln::cache::test
