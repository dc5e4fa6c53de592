#include "cache/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string_view>
#include <system_error>

namespace kiln::cache {
namespace {

// A signal storm must not hold a caller for ever: after so many interruptions EINTR is an error.
constexpr int kMaxInterruptions = 100;

template <typename Call>
auto repeat_interrupted(Call&& call) {
  auto result = call();
  for (int i = 0; result < 0 && errno == EINTR && i < kMaxInterruptions; ++i) result = call();
  return result;
}

}  // namespace

const Files& real_files() {
  static constexpr Files kFiles = {
      .openat = [](int dir, const char* path, int flags, mode_t mode) {
        return ::openat(dir, path, flags, mode);
      },
      .close = ::close,
      .pread = ::pread,
      .write = ::write,
      .fsync = ::fsync,
      .fstat = [](int fd, struct stat* out) { return ::fstat(fd, out); },
      .fstatat = [](int dir, const char* path, struct stat* out, int flags) {
        return ::fstatat(dir, path, out, flags);
      },
      .fstatfs = ::fstatfs,
      .faccessat = ::faccessat,
      .fchmod = ::fchmod,
      .fchmodat = ::fchmodat,
      .futimens = ::futimens,
      .utimensat = ::utimensat,
      .mkdirat = ::mkdirat,
      .linkat = ::linkat,
      .renameat = ::renameat,
      .unlinkat = ::unlinkat,
      .readlinkat = ::readlinkat,
      .flock = ::flock,
      .getrandom = ::getrandom,
      .getcwd = ::getcwd,
      .fdopendir = ::fdopendir,
      .readdir = ::readdir,
      .closedir = ::closedir,
  };
  return kFiles;
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    close();
    files_ = other.files_;
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

// Never repeated: on Linux the descriptor is gone even when close() reports an interruption.
int Fd::close() {
  const int fd = release();
  if (fd < 0) return 0;
  return files_->close(fd) == 0 ? 0 : errno;
}

OpenResult open_at(const Files& files, int dir, const std::string& path, int flags, mode_t mode) {
  const int fd = repeat_interrupted(
      [&] { return files.openat(dir, path.c_str(), flags | O_CLOEXEC, mode); });
  if (fd < 0) return {Fd(), errno};
  return {Fd(files, fd), 0};
}

int write_all(const Files& files, int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        repeat_interrupted([&] { return files.write(fd, bytes.data(), bytes.size()); });
    if (written < 0) return errno;
    if (written == 0) return EIO;  // no progress: a regular file never does this
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return 0;
}

int read_all(const Files& files, int fd, std::span<std::byte> bytes) {
  off_t offset = 0;
  while (!bytes.empty()) {
    const ssize_t got =
        repeat_interrupted([&] { return files.pread(fd, bytes.data(), bytes.size(), offset); });
    if (got < 0) return errno;
    if (got == 0) return ENODATA;
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
  return 0;
}

int try_lock(const Files& files, int fd) {
  const int result = repeat_interrupted([&] { return files.flock(fd, LOCK_EX | LOCK_NB); });
  return result == 0 ? 0 : errno;
}

int make_directory(const Files& files, int dir, const std::string& path) {
  if (files.mkdirat(dir, path.c_str(), 0700) != 0) return errno == EEXIST ? 0 : errno;
  return files.fchmodat(dir, path.c_str(), 0700, 0) == 0 ? 0 : errno;
}

Names list_names(const Files& files, int dir, const std::string& path) {
  Names result;
  OpenResult opened = open_at(files, dir, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!opened.fd) {
    result.error = opened.error;
    return result;
  }
  DIR* stream = files.fdopendir(opened.fd.get());
  if (stream == nullptr) {
    result.error = errno;
    return result;
  }
  opened.fd.release();  // the stream owns it now
  const auto close = [&files](DIR* open) { files.closedir(open); };
  const std::unique_ptr<DIR, decltype(close)> closer(stream, close);
  for (;;) {
    errno = 0;
    const struct dirent* item = files.readdir(stream);
    if (item == nullptr) break;
    const std::string_view name = item->d_name;
    if (name != "." && name != "..") result.names.emplace_back(name);
  }
  result.error = errno;
  return result;
}

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace kiln::cache
