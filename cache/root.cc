#include "cache/root.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "cache/left_out.h"

namespace kiln::cache {
namespace {

constexpr std::size_t kMaxHostBytes = 64;
constexpr std::string_view kDirectoryTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory holds compiled kernels of Kiln. It can be removed at any time, and backups\n"
    "# can leave it out. See https://bford.info/cachedir/ for this file.\n";
constexpr std::string_view kVersionText = "kiln cache, layout 1\n";

// For people who look into tmp/. Only characters that are safe in a file name anywhere.
std::string host_name() {
  std::array<char, kMaxHostBytes + 1> buffer{};
  if (::gethostname(buffer.data(), kMaxHostBytes) != 0) return "host";
  std::string host = buffer.data();
  for (char& c : host) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain) c = '_';
  }
  return host.empty() ? "host" : host;
}

// 128 random bits: process numbers and clocks repeat across the machines that share a directory.
int temporary_path(const Files& files, std::string& path) {
  std::array<std::uint8_t, 16> random{};
  const ssize_t got = files.getrandom(random.data(), random.size(), 0);
  if (got < 0) return errno;
  if (got != static_cast<ssize_t>(random.size())) return EIO;
  Digest padded{};
  std::copy(random.begin(), random.end(), padded.begin());
  path = std::string(kTemporaryDirectory) + "/" + host_name() + "-" + std::to_string(::getpid()) +
         "-" + to_hex(padded).substr(0, 2 * random.size());
  return 0;
}

bool worth_a_retry(int error) { return error == ESTALE || error == EIO || error == EINTR; }

ReadResult read_once(const Root& root, const std::string& path, std::size_t least,
                     std::size_t most) {
  const Files& files = *root.files;
  ReadResult result;
  // Non-blocking, so that a FIFO under an entry's name cannot hold us; no effect on regular files.
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  OpenResult opened = open_at(files, root.at(), path, kFlags);
  if (!opened.fd) {
    result.error = opened.error;
    if (opened.error == ENOENT) result.status = ReadStatus::kAbsent;
    if (opened.error == ELOOP) result.status = ReadStatus::kUntrusted;
    return result;
  }
  if (files.fstat(opened.fd.get(), &result.file) != 0) {
    result.error = errno;
    return result;
  }
  result.fd = std::move(opened.fd);
  const auto size = static_cast<std::uint64_t>(result.file.st_size);
  if (!root.trust.accepts(result.file)) {
    result.status = ReadStatus::kUntrusted;
  } else if (size < least) {
    result.status = ReadStatus::kTooSmall;
  } else if (size > most) {
    result.status = ReadStatus::kTooLarge;
  } else {
    result.bytes.resize(size);
    result.error = read_all(files, result.fd.get(), result.bytes);
    if (result.error == 0) result.status = ReadStatus::kRead;
    if (result.error == ENODATA) result.status = ReadStatus::kTooSmall;
  }
  return result;
}

// A file in tmp/ that is unlinked at the end whatever happens. Nothing hangs on that: a leftover is
// swept an hour later.
class Temporary {
 public:
  explicit Temporary(const Root& root) : root_(root) {}
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (exists_) root_.files->unlinkat(root_.at(), path_.c_str(), 0);
  }

  PublishResult write(std::span<const std::byte> bytes, bool sync) {
    OpenResult opened = create();
    if (!opened.fd) return {Publication::kFailed, "create", opened.error};
    exists_ = true;
    const Files& files = *root_.files;
    const int fd = opened.fd.get();
    if (files.fchmod(fd, 0600) != 0) return {Publication::kFailed, "fchmod", errno};
    if (const int error = write_all(files, fd, bytes)) {
      return {Publication::kFailed, "write", error};
    }
    if (sync && files.fsync(fd) != 0 && errno != EINVAL && errno != EOPNOTSUPP) {
      return {Publication::kFailed, "fsync", errno};
    }
    if (const int error = opened.fd.close()) return {Publication::kFailed, "close", error};
    return {Publication::kStored, "", 0};
  }

  // Never unlinks what is there first: a reader would find nothing in between.
  PublishResult give_name(const std::string& final_path, bool replace) {
    const Files& files = *root_.files;
    const int at = root_.at();
    if (kLeftOut == Protection::unlink_first && replace) {
      files.unlinkat(at, final_path.c_str(), 0);
    }
    if (!replace) {
      if (files.linkat(at, path_.c_str(), at, final_path.c_str(), 0) == 0) {
        return {Publication::kStored, "", 0};
      }
      const int error = errno;
      if (error == EEXIST) return {Publication::kExisted, "", 0};
      const bool no_links = error == EPERM || error == EOPNOTSUPP || error == ENOSYS ||
                            error == EXDEV || error == EMLINK;
      if (!no_links) return {Publication::kFailed, "link", error};
    }
    if (files.renameat(at, path_.c_str(), at, final_path.c_str()) != 0) {
      return {Publication::kFailed, "rename", errno};
    }
    exists_ = false;
    return {Publication::kStored, "", 0};
  }

 private:
  OpenResult create() {
    OpenResult opened;
    for (int attempt = 0; attempt < 2; ++attempt) {  // the first may find tmp/ missing
      opened.error = temporary_path(*root_.files, path_);
      if (opened.error != 0) return opened;
      opened = open_at(*root_.files, root_.at(), path_, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW,
                       0600);
      if (opened.fd || opened.error != ENOENT) return opened;
      if (const int error = make_directories(root_, kTemporaryDirectory)) {
        opened.error = error;
        return opened;
      }
    }
    return opened;
  }

  const Root& root_;
  std::string path_;
  bool exists_ = false;
};

// Stands in for publish_file() where that protection is left out.
PublishResult write_in_place(const Root& root, const std::string& directory,
                             const std::string& name, std::span<const std::byte> bytes) {
  if (const int error = make_directories(root, directory)) {
    return {Publication::kFailed, "mkdir", error};
  }
  OpenResult opened = open_at(*root.files, root.at(), directory + "/" + name,
                              O_CREAT | O_WRONLY | O_TRUNC | O_NOFOLLOW, 0600);
  if (!opened.fd) return {Publication::kFailed, "create", opened.error};
  const int error = write_all(*root.files, opened.fd.get(), bytes);
  return {error == 0 ? Publication::kStored : Publication::kFailed, "write", error};
}

// Informative only, so it is written in place and no error counts.
void write_note(const Root& root, const char* name, std::string_view text) {
  OpenResult opened =
      open_at(*root.files, root.at(), name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0600);
  if (opened.fd) write_all(*root.files, opened.fd.get(), std::as_bytes(std::span(text)));
}

}  // namespace

std::string shard_of(const Digest& key) { return to_hex(key).substr(0, 2); }

std::string entry_path(const Digest& key) {
  const std::string hex = to_hex(key);
  return std::string(kVersionDirectory) + "/" + hex.substr(0, 2) + "/" + hex.substr(2) +
         std::string(kEntrySuffix);
}

std::string lock_path(const Digest& key) {
  return std::string(kLockDirectory) + "/" + shard_of(key);
}

std::string quarantine_path(const Digest& key) {
  return std::string(kQuarantineDirectory) + "/" + to_hex(key) + std::string(kQuarantineSuffix);
}

std::int64_t modified_ns(const struct stat& status) {
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Identity identity_of(const struct stat& status) {
  return {status.st_dev, status.st_ino, status.st_size, modified_ns(status)};
}

ReadResult read_file(const Root& root, const std::string& path, std::size_t least,
                     std::size_t most) {
  ReadResult result = read_once(root, path, least, most);
  if (result.status == ReadStatus::kFailed && worth_a_retry(result.error)) {
    result = read_once(root, path, least, most);
  }
  return result;
}

PublishResult publish_file(const Root& root, const std::string& directory, const std::string& name,
                           std::span<const std::byte> bytes, bool replace, bool sync) {
  const std::string final_path = directory + "/" + name;
  if (kLeftOut == Protection::write_in_place) return write_in_place(root, directory, name, bytes);
  Temporary temporary(root);
  PublishResult result = temporary.write(bytes, sync);
  if (result.publication != Publication::kStored) return result;
  result = temporary.give_name(final_path, replace);
  if (result.publication == Publication::kFailed && result.error == ENOENT) {
    if (const int error = make_directories(root, directory)) {
      return {Publication::kFailed, "mkdir", error};
    }
    result = temporary.give_name(final_path, replace);
  }
  return result;
}

int make_directories(const Root& root, const std::string& directory) {
  const Files& files = *root.files;
  struct stat status;
  if (files.fstatat(root.at(), kVersionDirectory, &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (const int error = make_directory(files, root.at(), kVersionDirectory)) return error;
    write_note(root, "CACHEDIR.TAG", kDirectoryTag);
    write_note(root, "VERSION", kVersionText);
  }
  return make_directory(files, root.at(), directory);
}

bool is_removed(const Root& root) {
  struct stat status;
  return root.files->fstat(root.at(), &status) == 0 && status.st_nlink == 0;
}

}  // namespace kiln::cache
