// Every system call that the cache makes, in one table of function pointers, so that a test can
// make any one of them fail at any occurrence; and the few helpers that all users of it share.
// Internal to cache/.
//
// Convention of the helpers: errors are errno values, 0 is success. Nothing throws except
// std::bad_alloc. A call that was interrupted is repeated, but not for ever.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/vfs.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace kiln::cache {

struct Files {
  int (*openat)(int dir, const char* path, int flags, mode_t mode);
  int (*close)(int fd);
  ssize_t (*pread)(int fd, void* buffer, size_t bytes, off_t offset);
  ssize_t (*write)(int fd, const void* buffer, size_t bytes);
  int (*fsync)(int fd);
  int (*fstat)(int fd, struct stat* out);
  int (*fstatat)(int dir, const char* path, struct stat* out, int flags);
  int (*fstatfs)(int fd, struct statfs* out);
  int (*faccessat)(int dir, const char* path, int mode, int flags);
  int (*fchmod)(int fd, mode_t mode);
  int (*fchmodat)(int dir, const char* path, mode_t mode, int flags);
  int (*futimens)(int fd, const struct timespec times[2]);
  int (*utimensat)(int dir, const char* path, const struct timespec times[2], int flags);
  int (*mkdirat)(int dir, const char* path, mode_t mode);
  int (*linkat)(int from_dir, const char* from, int to_dir, const char* to, int flags);
  int (*renameat)(int from_dir, const char* from, int to_dir, const char* to);
  int (*unlinkat)(int dir, const char* path, int flags);
  ssize_t (*readlinkat)(int dir, const char* path, char* buffer, size_t bytes);
  int (*flock)(int fd, int operation);
  ssize_t (*getrandom)(void* buffer, size_t bytes, unsigned flags);
  char* (*getcwd)(char* buffer, size_t bytes);
  DIR* (*fdopendir)(int fd);
  struct dirent* (*readdir)(DIR* dir);
  int (*closedir)(DIR* dir);
};

const Files& real_files();

// A file descriptor that closes itself. Move-only.
class Fd {
 public:
  Fd() = default;
  Fd(const Files& files, int fd) : files_(&files), fd_(fd) {}
  Fd(Fd&& other) noexcept : files_(other.files_), fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { close(); }

  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }
  int release();
  int close();  // errno of the close, 0 when there was nothing to close

 private:
  const Files* files_ = nullptr;
  int fd_ = -1;
};

struct OpenResult {
  Fd fd;
  int error = 0;
};
OpenResult open_at(const Files& files, int dir, const std::string& path, int flags,
                   mode_t mode = 0);

int write_all(const Files& files, int fd, std::span<const std::byte> bytes);

// Fills `bytes` from the file's start. ENODATA when the file is shorter.
int read_all(const Files& files, int fd, std::span<std::byte> bytes);

// Tries once for an exclusive flock(). EWOULDBLOCK: someone else holds it.
int try_lock(const Files& files, int fd);

// Makes one directory with mode 0700 whatever the umask says. One that exists is left as it is.
int make_directory(const Files& files, int dir, const std::string& path);

struct Names {
  std::vector<std::string> names;  // without . and .., in no order; what was read before an error
  int error = 0;
};
Names list_names(const Files& files, int dir, const std::string& path);

std::string error_text(int error);  // strerror, thread-safe

}  // namespace kiln::cache
