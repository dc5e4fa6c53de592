#include "cache/trust.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <deque>
#include <string_view>

namespace kiln::cache {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel
constexpr mode_t kWritableByOthers = S_IWGRP | S_IWOTH;

std::string mode_text(mode_t mode) {
  std::string text = "0000";
  for (int i = 0; i < 4; ++i) text[i] = static_cast<char>('0' + ((mode >> (9 - 3 * i)) & 7));
  return text;
}

// The components of a path; empty ones and "." say nothing.
std::deque<std::string> components(std::string_view path) {
  std::deque<std::string> parts;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (!part.empty() && part != ".") parts.emplace_back(part);
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return parts;
}

// Goes from "/" to the root one component at a time, each opened relative to the one before.
class Walk {
 public:
  Walk(const Files& files, const std::string& path, RootUse use)
      : files_(files), path_(path), use_(use), user_(::geteuid()) {}

  OpenedRoot run() {
    if (start() && descend() && check_leaf() && check_access()) {
      result_.state = use_ == RootUse::kWritable && !read_only_ ? DirectoryState::kUsable
                                                                : DirectoryState::kReadOnly;
      result_.fd = std::move(here_);
    }
    result_.trust = {user_, system_};
    return std::move(result_);
  }

 private:
  bool fail(DirectoryState state, const std::string& reason) {
    result_.state = state;
    result_.message = "cache directory " + path_ + " is not used: " + reason;
    return false;
  }
  bool refuse(const std::string& reason) { return fail(DirectoryState::kUntrusted, reason); }
  bool unusable(const std::string& what, int error) {
    const char* remedy = use_ == RootUse::kWritable ? "name a directory that this user can create"
                                                    : "name an existing directory";
    return fail(DirectoryState::kUnusable, what + ": " + error_text(error) + ": " + remedy);
  }
  bool owned_by_us_or_system(const struct stat& status) const {
    return status.st_uid == user_ || status.st_uid == 0 || status.st_uid == system_;
  }

  bool enter_top() {
    OpenResult top = open_at(files_, AT_FDCWD, "/", O_PATH | O_DIRECTORY);
    if (!top.fd || files_.fstat(top.fd.get(), &status_) != 0) {
      return unusable("/ cannot be opened", top.fd ? errno : top.error);
    }
    here_ = std::move(top.fd);
    where_.clear();
    return true;
  }

  bool start() {
    std::string full = path_;
    if (full.empty() || full.front() != '/') {
      char buffer[PATH_MAX];
      if (files_.getcwd(buffer, sizeof buffer) == nullptr) {
        return unusable("the working directory has no name", errno);
      }
      full = std::string(buffer) + "/" + path_;
    }
    todo_ = components(full);
    if (!enter_top()) return false;
    system_ = status_.st_uid;
    return true;
  }

  bool descend() {
    while (!todo_.empty()) {
      const std::string part = todo_.front();
      todo_.pop_front();
      if (!check_ancestor() || !step(part)) return false;
    }
    return true;
  }

  bool check_ancestor() {
    const mode_t mode = status_.st_mode;
    if ((mode & kWritableByOthers) == 0 || (mode & S_ISVTX) != 0) return true;
    const bool private_group = user_ != 0 && status_.st_uid == user_ && status_.st_gid == user_;
    if ((mode & S_IWOTH) == 0 && private_group) return true;
    return refuse("its ancestor " + display() + " has mode " + mode_text(mode) +
                  ", so other users could replace it: remove that write permission (chmod go-w) "
                  "or choose another directory");
  }

  bool step(const std::string& part) {
    constexpr int kFlags = O_PATH | O_NOFOLLOW;
    OpenResult next = open_at(files_, here_.get(), part, kFlags);
    if (next.error == ENOENT && use_ == RootUse::kWritable) {
      if (const int error = make_directory(files_, here_.get(), part)) {
        return unusable(where_ + "/" + part + " cannot be created", error);
      }
      next = open_at(files_, here_.get(), part, kFlags);
    }
    if (!next.fd) return unusable(where_ + "/" + part + " cannot be opened", next.error);
    struct stat status;
    if (files_.fstat(next.fd.get(), &status) != 0) {
      return unusable(where_ + "/" + part + " cannot be examined", errno);
    }
    if (S_ISLNK(status.st_mode)) return follow(part, next.fd, status);
    if (!S_ISDIR(status.st_mode)) return unusable(where_ + "/" + part, ENOTDIR);
    here_ = std::move(next.fd);
    status_ = status;
    where_ += "/" + part;
    return true;
  }

  bool follow(const std::string& part, const Fd& link, const struct stat& status) {
    const std::string name = where_ + "/" + part;
    if (todo_.empty() && use_ == RootUse::kWritable) {
      return refuse("it is a symbolic link: name the directory that it points to");
    }
    const bool shared = (status_.st_mode & kWritableByOthers) != 0;
    if (shared && !owned_by_us_or_system(status) && status.st_uid != status_.st_uid) {
      return refuse("the symbolic link " + name + " belongs to another user, uid " +
                    std::to_string(status.st_uid) + ": name the directory that it points to");
    }
    if (++links_ > kMaxLinks) return unusable(name, ELOOP);
    char target[PATH_MAX];
    const ssize_t length = files_.readlinkat(link.get(), "", target, sizeof target);
    if (length <= 0 || length >= static_cast<ssize_t>(sizeof target)) {
      return unusable(name + " cannot be read", length < 0 ? errno : ENAMETOOLONG);
    }
    const std::string_view text(target, static_cast<std::size_t>(length));
    const std::deque<std::string> parts = components(text);
    todo_.insert(todo_.begin(), parts.begin(), parts.end());
    return text.front() == '/' ? enter_top() : true;
  }

  bool check_leaf() {
    const bool owner =
        use_ == RootUse::kWritable ? status_.st_uid == user_ : owned_by_us_or_system(status_);
    if (!owner) {
      const bool good_layer = owned_by_us_or_system(status_);
      return refuse("it is owned by uid " + std::to_string(status_.st_uid) +
                    " and this process runs as uid " + std::to_string(user_) +
                    ": choose a directory of this user" +
                    (good_layer ? ", or give this one as a read-only layer" : ""));
    }
    if ((status_.st_mode & kWritableByOthers) != 0) {
      return refuse("it has mode " + mode_text(status_.st_mode) +
                    ", so other users could change kernels in it: chmod go-w " + path_);
    }
    return true;
  }

  bool check_access() {
    const int wanted = use_ == RootUse::kWritable ? W_OK | X_OK : X_OK;
    if (files_.faccessat(here_.get(), ".", wanted, AT_EACCESS) == 0) return true;
    const int error = errno;
    if (use_ == RootUse::kReadOnly || files_.faccessat(here_.get(), ".", X_OK, AT_EACCESS) != 0) {
      return unusable("it cannot be entered", error);
    }
    read_only_ = true;
    result_.message = "cache directory " + path_ + " is read only (" + error_text(error) +
                      "), new kernels are not stored: make it writable or choose another one";
    return true;
  }

  std::string display() const { return where_.empty() ? "/" : where_; }

  const Files& files_;
  const std::string path_;
  const RootUse use_;
  const uid_t user_;
  uid_t system_ = 0;
  std::deque<std::string> todo_;
  Fd here_;
  struct stat status_ {};
  std::string where_;  // the name of here_; empty for "/"; for messages only
  int links_ = 0;
  bool read_only_ = false;
  OpenedRoot result_;
};

}  // namespace

bool FileTrust::accepts(const struct stat& status) const {
  const bool owner = status.st_uid == user || status.st_uid == 0 || status.st_uid == system;
  return S_ISREG(status.st_mode) && owner && (status.st_mode & kWritableByOthers) == 0;
}

std::string_view name(DirectoryState state) {
  switch (state) {
    case DirectoryState::kUsable:
      return "usable";
    case DirectoryState::kDisabled:
      return "disabled";
    case DirectoryState::kReadOnly:
      return "read-only";
    case DirectoryState::kUntrusted:
      return "untrusted";
    case DirectoryState::kUnusable:
      return "unusable";
  }
  return "unknown";
}

std::string default_directory() {
  // With elevated rights the environment belongs to someone else than the process.
  if (::getauxval(AT_SECURE) != 0) return "";
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && cache[0] == '/') {
    return std::string(cache) + "/kiln";
  }
  const char* home = std::getenv("HOME");
  struct stat status;
  const bool usable = home != nullptr && home[0] == '/' &&
                      real_files().fstatat(AT_FDCWD, home, &status, 0) == 0 &&
                      S_ISDIR(status.st_mode);
  return usable ? std::string(home) + "/.cache/kiln" : "";
}

OpenedRoot open_root(const Files& files, const std::string& path, RootUse use) {
  return Walk(files, path, use).run();
}

}  // namespace kiln::cache
