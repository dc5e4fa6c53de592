// Which directories and files the cache may use. Internal to cache/.
//
// Whoever can write a cache directory can run code in the processes that use it: the checksum of
// an entry detects accidents, not attackers. So a root is used only when nobody else can write it.
//
//   the writable root    owned by this user; not a symbolic link; no write permission for group or
//                        others; created with mode 0700 when it does not exist
//   a read-only root     owned by this user or by the system; no write permission for group or
//                        others; may be reached through a symbolic link; never created
//   every ancestor       not writable by group or others, unless sticky (such as /tmp); one owned
//                        by this user and writable by the user's private group (a group with the
//                        user's own number, as Debian, Ubuntu and Fedora make them; with their
//                        umask of 002 every checkout has that mode) is accepted
//   a symbolic link      on the way: followed, its target's ancestors are checked the same; in a
//                        sticky directory only when owned by this user, the system or the
//                        directory's owner
//   an entry file        regular, owned by this user or by the system, not writable by group or
//                        others
//
// "The system" is root, and the owner of "/": in a user namespace where root is not mapped, root's
// files show another number. Access control lists are not looked at.
//
// The check ends in a descriptor of the directory that was checked, and everything later goes
// through it, so that swapping a directory after the check changes nothing.
#pragma once

#include <sys/stat.h>

#include <string>

#include "cache/files.h"
#include "cache/types.h"

namespace kiln::cache {

enum class RootUse { kWritable, kReadOnly };

// For the files below a root.
struct FileTrust {
  uid_t user = 0;
  uid_t system = 0;
  bool accepts(const struct stat& status) const;
};

struct OpenedRoot {
  DirectoryState state = DirectoryState::kUnusable;
  std::string message;  // why not usable, with a remedy
  Fd fd;                // O_PATH; open when the state is kUsable or kReadOnly
  FileTrust trust;
};

// Checks, creates when allowed, and opens. kReadOnly use gives kReadOnly at best.
OpenedRoot open_root(const Files& files, const std::string& path, RootUse use);

}  // namespace kiln::cache
