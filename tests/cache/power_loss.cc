#include "power_loss.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>

#include "support.h"

namespace kiln::cache::test {
namespace fs = std::filesystem;
namespace {

ino_t inode_of(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw std::runtime_error("fstat");
  return status.st_ino;
}

std::set<std::string> damaged_in(const std::string& root) {
  std::set<std::string> damaged;
  if (!exists(root)) return damaged;
  for (const ListedEntry& entry : DiskCache(options_for(root)).list()) {
    if (!std::holds_alternative<Entry>(entry.content)) damaged.insert(entry.path);
  }
  return damaged;
}

bool is_ours(const std::string& path) { return path == "v1" || path.rfind("v1/", 0) == 0; }

}  // namespace

const char* name(Loss loss) {
  switch (loss) {
    case Loss::kCut: return "unsynced files empty";
    case Loss::kHalved: return "unsynced files cut in half";
    case Loss::kZeroed: return "unsynced files zeroed";
    case Loss::kFilesGone: return "unsynced files gone";
    case Loss::kNamesGone: return "names gone";
    case Loss::kSomeOfBoth: return "some names gone and unsynced files empty";
  }
  return "unknown";
}

PowerLoss::PowerLoss(std::string root, int at)
    : root_(std::move(root)),
      saved_(root_ + ".saved"),
      at_(at),
      damaged_before_(damaged_in(root_)) {
  fs::create_directory(saved_);
}

int PowerLoss::before(const Call& call) {
  if (++calls_ >= at_) return EIO;
  pending_.clear();
  existed_ = exists(root_ + "/" + call.path);
  if (call.name == "renameat") pending_ = save(call.second_path);
  if (call.name == "unlinkat") pending_ = save(call.path);
  return 0;
}

int PowerLoss::after(const Call& call, bool succeeded) {
  if (!succeeded) return 0;
  const std::string path = call.path;
  if (call.name == "write") unsynced_.insert(inode_of(call.fd));
  if (call.name == "fsync") unsynced_.erase(inode_of(call.fd));
  const bool creates = (call.name == "openat" && (call.flags & O_CREAT) != 0 && !existed_) ||
                       call.name == "mkdirat";
  if (creates && is_ours(path)) changes_.push_back({Change::kMade, path, "", ""});
  if (call.name == "openat" && (call.flags & O_TRUNC) != 0 && is_ours(path)) {
    unsynced_.insert(status_of(root_ + "/" + path).st_ino);
  }
  if (call.name == "linkat") changes_.push_back({Change::kMade, call.second_path, "", ""});
  if (call.name == "renameat") {
    changes_.push_back({Change::kMoved, call.second_path, path, pending_});
  }
  if (call.name == "unlinkat") changes_.push_back({Change::kRemoved, path, "", pending_});
  return 0;
}

// A second name keeps the file, and its inode, whatever becomes of the first.
std::string PowerLoss::save(const std::string& path) {
  const std::string from = root_ + "/" + path;
  std::string to = saved_ + "/" + std::to_string(++saves_);
  return ::link(from.c_str(), to.c_str()) == 0 ? to : "";
}

void PowerLoss::undo(const Change& change) {
  const std::string path = root_ + "/" + change.path;
  std::error_code ignored;
  if (change.what == Change::kMade) fs::remove_all(path, ignored);
  if (change.what == Change::kMoved) fs::rename(path, root_ + "/" + change.from, ignored);
  if (!change.saved.empty()) fs::rename(change.saved, path, ignored);
}

void PowerLoss::damage_unsynced(Loss loss) {
  std::vector<std::string> files;
  if (!exists(root_)) return;
  for (const auto& item : fs::recursive_directory_iterator(root_)) {
    if (item.is_regular_file() && unsynced_.count(status_of(item.path()).st_ino) != 0) {
      files.push_back(item.path());
    }
  }
  for (const std::string& file : files) {
    const auto bytes = fs::file_size(file);
    if (loss == Loss::kFilesGone) {
      fs::remove(file);
      continue;
    }
    fs::resize_file(file, loss == Loss::kHalved ? bytes / 2 : 0);
    if (loss == Loss::kZeroed) fs::resize_file(file, bytes);
  }
}

void PowerLoss::lose(Loss loss) {
  std::size_t undone = 0;
  if (loss == Loss::kNamesGone) undone = changes_.size();
  if (loss == Loss::kSomeOfBoth) undone = (changes_.size() + 1) / 2;
  for (; undone > 0; --undone) {
    undo(changes_.back());
    changes_.pop_back();
  }
  damage_unsynced(loss);
}

std::size_t PowerLoss::damaged_entries() const {
  std::size_t number = 0;
  for (const std::string& path : damaged_in(root_)) number += damaged_before_.count(path) == 0;
  return number;
}

}  // namespace kiln::cache::test
