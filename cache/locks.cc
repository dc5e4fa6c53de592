#include "cache/locks.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

namespace kiln::cache {
namespace {

using Clock = std::chrono::steady_clock;

// flock() has no timeout, so it is polled; the steps grow to this, which is small beside a compile.
constexpr std::chrono::milliseconds kLongestPause{20};

bool is_network_file_system(const Root& root) {
  struct statfs status;
  if (root.files->fstatfs(root.at(), &status) != 0) return true;
  switch (static_cast<std::uint32_t>(status.f_type)) {
    case 0x6969:      // NFS
    case 0x517b:      // SMB
    case 0xfe534d42:  // SMB2
    case 0xff534d42:  // CIFS
    case 0x0bd00bd0:  // Lustre
    case 0x47504653:  // GPFS
    case 0x65735546:  // FUSE
    case 0x00c36400:  // Ceph
    case 0x19830326:  // BeeGFS
    case 0x5346414f:  // AFS
    case 0x01021997:  // 9p
      return true;
    default:
      return false;
  }
}

OpenResult open_lock_file(const Root& root, const std::string& path) {
  constexpr int kFlags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  OpenResult opened = open_at(*root.files, root.at(), path, kFlags, 0600);
  if (opened.error == ENOENT && make_directories(root, kLockDirectory) == 0) {
    opened = open_at(*root.files, root.at(), path, kFlags, 0600);
  }
  return opened;
}

}  // namespace

LockResult acquire_lock(const Root& root, const std::string& path, std::uint32_t timeout_ms) {
  LockResult result;
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  if (!root.writable || is_network_file_system(root)) return result;
  OpenResult opened = open_lock_file(root, path);
  if (!opened.fd) return result;

  Clock::duration pause = std::chrono::milliseconds(1);
  int error = try_lock(*root.files, opened.fd.get());
  result.waited = error == EWOULDBLOCK;
  while (error == EWOULDBLOCK) {
    const Clock::duration left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) {
      result.timed_out = true;
      return result;
    }
    std::this_thread::sleep_for(std::min(pause, left));
    pause = std::min<Clock::duration>(2 * pause, kLongestPause);
    error = try_lock(*root.files, opened.fd.get());
  }
  if (error != 0) return result;
  result.lock = KeyLock(opened.fd.release(), root.files);
  return result;
}

KeyLock::KeyLock(KeyLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), files_(other.files_) {}

KeyLock& KeyLock::operator=(KeyLock&& other) noexcept {
  std::swap(fd_, other.fd_);  // the other one releases what this held
  std::swap(files_, other.files_);
  return *this;
}

// Unlocked by name, not by the close alone: a child that was forked meanwhile has the descriptor
// too and would keep the lock.
KeyLock::~KeyLock() {
  if (fd_ < 0) return;
  const Files& files = files_ != nullptr ? *files_ : real_files();
  files.flock(fd_, LOCK_UN);
  files.close(fd_);
}

}  // namespace kiln::cache
