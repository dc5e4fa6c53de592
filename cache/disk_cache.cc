// The protocol of the cache directory.
//
//   <root>/                       0700, of this user (trust.h has the rules)
//     CACHEDIR.TAG, VERSION       for people and backup programs; the format is in each entry
//     v1/ab/<62 hex>.kiln         one entry, named after its key; shards are made on demand
//     v1/tmp/<host>-<pid>-<hex>   being written
//     v1/lock/ab, v1/lock/evict   lock files, never removed
//     v1/bad/<64 hex>.bad         entries moved aside, at most 8, for diagnosis
//     v1/toolchain/<64 hex>       recorded toolchains, named after their content
//
// Publish: write a new file in tmp/, fsync, close, then link() it to its name. The name is the
// commit: before it nobody sees anything, after it everybody sees the whole file. If the name is
// taken, the other copy wins; it holds what the same key compiled to. Only a copy that this process
// found to be bad is replaced, by rename(), and never removed first. Nothing is read back: the
// publisher already has its bytes, and a network file system may not show them for a minute.
//
// Lookup: the layers in order, then the directory. A file is opened without following a link,
// refused unless owner and mode are right, read into private memory (never mapped: a mapped file
// that shrinks kills the process), and decoded: size, format, checksum, then key and toolchain. All
// else is a miss. A bad file of the directory is moved aside, but only when it is still the file
// that was read; a bad file of a layer is remembered and the layers are passed over for its key.
//
// Removal by others at any moment is fine everywhere: readers hold the file open, publishers make
// missing directories again, and when the root itself was removed it is made again.
//
// What is removed, and when: evictor.cc.
//
// Locks only save work: every rule above holds without them.
#include "cache/disk_cache.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <set>
#include <stdexcept>

#include "cache/eviction.h"
#include "cache/evictor.h"
#include "cache/files.h"
#include "cache/left_out.h"
#include "cache/locks.h"
#include "cache/lookup.h"
#include "cache/root.h"
#include "cache/toolchains.h"
#include "cache/trust.h"

namespace kiln::cache {
namespace {

constexpr std::size_t kMaxQuarantined = 8;
constexpr std::int64_t kTouchAfterNs = std::int64_t{3600} * 1'000'000'000;
constexpr std::uint32_t kMaxSm = 0xffff;  // what the entry's header can hold

struct Counters {
  std::atomic<std::uint64_t> hits{0}, directory_hits{0};
  std::array<std::atomic<std::uint64_t>, kCountedLayers> layer_hits{};
  std::array<std::atomic<std::uint64_t>, kMissReasons> misses{};
  std::atomic<std::uint64_t> published{0}, publish_lost_race{0}, publish_failed{0};
  std::atomic<std::uint64_t> quarantined{0}, evicted{0}, lock_waits{0}, lock_timeouts{0};
};

}  // namespace

struct DiskCache::Impl {
  Impl(Options given, const Files& table) : options(std::move(given)), files(table) {
    for (std::size_t i = 0; i < options.layers.size(); ++i) {
      const std::string& layer = options.layers[i];
      OpenedRoot opened = open_root(files, layer, RootUse::kReadOnly);
      if (opened.fd) {
        layers.push_back({make_root(layer, std::move(opened)), std::min(i, kCountedLayers - 1)});
      } else {
        warn(opened.message);
      }
    }
    if (!options.directory.empty()) open_directory();
  }

  std::shared_ptr<const Root> make_root(const std::string& path, OpenedRoot opened) const {
    const bool writable = opened.state == DirectoryState::kUsable;
    return std::make_shared<const Root>(
        Root{&files, path, std::move(opened.fd), opened.trust, writable});
  }

  void open_directory();
  std::shared_ptr<const Root> current_root() const;
  std::shared_ptr<const Root> reopened_if_removed(const std::shared_ptr<const Root>& root);

  std::optional<Entry> lookup(const Digest& key, const Digest& toolchain, std::string_view* why);
  void handle_bad(const Root& root, const Digest& key, const Found& found);
  bool quarantine(const Root& root, const Digest& key, const Identity* expected);
  bool publish(const Entry& entry);
  bool refuse_to_publish(const std::string& why);

  bool is_distrusted(const Digest& key) const;
  bool distrust(const Digest& key);  // true when it was not yet

  void warn(const std::string& message) const {
    if (options.warn && !message.empty()) options.warn(message);
  }
  void warn_once(std::atomic<bool>& warned, const std::string& message) {
    if (!warned.exchange(true)) warn(message);
  }

  const Options options;
  const Files& files;
  struct Layer {
    std::shared_ptr<const Root> root;
    std::size_t counter;  // of its hits, in counters.layer_hits
  };
  std::vector<Layer> layers;
  Counters counters;
  Evictor evictor{options.max_bytes, options.max_entries};
  std::atomic<bool> warned_directory{false};
  std::atomic<bool> warned_publish{false};
  std::atomic<bool> warned_read{false};

  mutable std::mutex mutex;          // guards what follows; never held during a system call
  std::shared_ptr<const Root> root;  // null when there is no usable directory
  DirectoryState state = DirectoryState::kDisabled;
  std::string message =
      "no cache directory was given, so every process compiles its kernels: name one";
  std::set<Digest> distrusted;  // keys whose copy in some root was found bad
};

// At the start, and again when the directory was removed behind our back. If that fails, the
// descriptor of the removed directory stays: it holds nothing, and the next use tries once more.
void DiskCache::Impl::open_directory() {
  const RootUse use = options.read_only ? RootUse::kReadOnly : RootUse::kWritable;
  OpenedRoot opened = open_root(files, options.directory, use);
  const DirectoryState new_state = opened.state;
  std::string new_message = opened.message;
  if (!new_message.empty()) warn_once(warned_directory, new_message);
  std::shared_ptr<const Root> new_root;
  if (opened.fd) new_root = make_root(options.directory, std::move(opened));
  if (options.read_only && new_root) {
    new_message = "cache directory " + options.directory +
                  " was opened for reading only: new kernels are not stored";
  }
  const std::lock_guard guard(mutex);
  if (new_root) root.swap(new_root);  // the old one is closed after the lock is released
  state = new_state;
  message = std::move(new_message);
}

std::shared_ptr<const Root> DiskCache::Impl::current_root() const {
  const std::lock_guard guard(mutex);
  return root;
}

std::shared_ptr<const Root> DiskCache::Impl::reopened_if_removed(
    const std::shared_ptr<const Root>& known) {
  if (!is_removed(*known)) return known;
  if (current_root() == known) open_directory();  // else another thread did it
  return current_root();  // the removed one still, if it cannot be made again
}

bool DiskCache::Impl::is_distrusted(const Digest& key) const {
  const std::lock_guard guard(mutex);
  return distrusted.contains(key);
}

bool DiskCache::Impl::distrust(const Digest& key) {
  const std::lock_guard guard(mutex);
  return distrusted.insert(key).second;
}

std::optional<Entry> DiskCache::Impl::lookup(const Digest& key, const Digest& toolchain,
                                             std::string_view* why) {
  MissReason reason = kAbsent;
  const auto search = [&](const Root& where) {
    Found found = find_in(where, key, toolchain);
    if (!found.entry && found.reason != kAbsent) handle_bad(where, key, found);
    reason = std::max(reason, found.reason);
    return found;
  };
  if (!is_distrusted(key)) {
    for (const auto& layer : layers) {
      if (Found found = search(*layer.root); found.entry) {
        ++counters.hits;
        ++counters.layer_hits[layer.counter];
        return std::move(found.entry);
      }
    }
  }
  if (const auto directory = current_root()) {
    Found found = search(*directory);
    if (found.entry) {
      const bool old = now_ns() - modified_ns(found.file.file) > kTouchAfterNs;
      if (directory->writable && old) files.futimens(found.file.fd.get(), nullptr);
      ++counters.hits;
      ++counters.directory_hits;
      return std::move(found.entry);
    }
    if (found.reason == kAbsent) reopened_if_removed(directory);
  }
  ++counters.misses[reason];
  if (why != nullptr) *why = words(reason);
  return std::nullopt;
}

// A read that failed says nothing about the file. An intact entry of another toolchain stays until
// a publish replaces it: it may be right and the question wrong.
void DiskCache::Impl::handle_bad(const Root& where, const Digest& key, const Found& found) {
  const std::string file = where.path + "/" + entry_path(key);
  if (found.reason == kIo) {
    warn_once(warned_read, "cache entry " + file + " cannot be read (" +
                               error_text(found.file.error) +
                               "), such kernels are compiled again: check the file system");
    return;
  }
  const bool is_new = distrust(key);
  if (found.reason != kToolchain) {
    const Identity identity = identity_of(found.file.file);
    quarantine(where, key, found.file.fd ? &identity : nullptr);
  }
  if (is_new) {
    warn("cache entry " + file + " is not used, " + std::string(words(found.reason)) +
         ": the kernel is compiled again, nothing needs to be done");
  }
}

// Moves the key's file aside; when `expected` is given, only if it is still that file.
bool DiskCache::Impl::quarantine(const Root& where, const Digest& key, const Identity* expected) {
  if (!where.writable) return false;
  const std::string from = entry_path(key);
  const std::string to = quarantine_path(key);
  struct stat status;
  if (files.fstatat(where.at(), from.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (expected != nullptr && identity_of(status) != *expected) return false;
  const auto move = [&] {
    return files.renameat(where.at(), from.c_str(), where.at(), to.c_str()) == 0;
  };
  const bool moved =
      move() || (errno == ENOENT && make_directories(where, kQuarantineDirectory) == 0 && move());
  if (!moved) return false;
  // From now on its time stamp says since when it lies here.
  files.utimensat(where.at(), to.c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
  keep_newest(where, kQuarantineDirectory, kMaxQuarantined);
  ++counters.quarantined;
  return true;
}

bool DiskCache::Impl::refuse_to_publish(const std::string& why) {
  if (kLeftOut == Protection::errors_throw) throw std::runtime_error(why);
  ++counters.publish_failed;
  warn_once(warned_publish, "a kernel was not stored in cache directory " + options.directory +
                                ": " + why + "; this process goes on with its own copy");
  return false;
}

bool DiskCache::Impl::publish(const Entry& entry) {
  auto directory = current_root();
  if (!directory || !directory->writable) return false;
  if (entry.cubin.empty()) return refuse_to_publish("its cubin is empty");
  if (entry.sm > kMaxSm) return refuse_to_publish("its SM number is above 65535");
  const std::vector<std::byte> bytes = encode(entry);
  if (bytes.size() > kMaxEntryBytes) return refuse_to_publish("it is larger than 64 MiB");

  const std::string path = entry_path(entry.key);
  const std::size_t slash = path.rfind('/');
  const bool replace = is_distrusted(entry.key);
  const auto attempt = [&] {
    return publish_file(*directory, path.substr(0, slash), path.substr(slash + 1), bytes, replace,
                        options.fsync);
  };
  PublishResult result = attempt();
  if (result.publication == Publication::kFailed && result.error == ENOENT) {
    directory = reopened_if_removed(directory);
    if (directory->writable) result = attempt();
  }
  switch (result.publication) {
    case Publication::kStored:
      ++counters.published;
      counters.evicted += evictor.after_publish(*directory, bytes.size());
      return true;
    case Publication::kExisted:
      ++counters.publish_lost_race;
      return true;
    case Publication::kFailed:
      break;
  }
  return refuse_to_publish(std::string(result.step) + ": " + error_text(result.error) +
                           ": free space or name another directory");
}

DiskCache::DiskCache(Options options) : DiskCache(std::move(options), real_files()) {}

DiskCache::DiskCache(Options options, const Files& files)
    : impl_(std::make_unique<Impl>(std::move(options), files)) {}

DiskCache::~DiskCache() = default;

std::optional<Entry> DiskCache::lookup(const Digest& key, const Digest& toolchain,
                                       std::string_view* why) {
  return impl_->lookup(key, toolchain, why);
}

bool DiskCache::has_file(const Digest& key) const {
  const std::string path = entry_path(key);
  const auto has = [&](const Root& root) {
    struct stat status;
    return impl_->files.fstatat(root.at(), path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  };
  const auto directory = impl_->current_root();
  return (directory && has(*directory)) ||
         std::any_of(impl_->layers.begin(), impl_->layers.end(),
                     [&](const auto& layer) { return has(*layer.root); });
}

bool DiskCache::publish(const Entry& entry) { return impl_->publish(entry); }

void DiskCache::reject(const Digest& key) {
  impl_->distrust(key);
  if (const auto root = impl_->current_root()) impl_->quarantine(*root, key, nullptr);
}

KeyLock DiskCache::lock(const Digest& key, std::uint32_t timeout_ms) {
  const auto root = impl_->current_root();
  if (!root) return KeyLock();
  LockResult result = acquire_lock(*root, lock_path(key), timeout_ms);
  if (result.waited) ++impl_->counters.lock_waits;
  if (result.timed_out) ++impl_->counters.lock_timeouts;
  return std::move(result.lock);
}

void DiskCache::record_toolchain(const std::string& text) {
  const auto root = impl_->current_root();
  if (root && root->writable) write_toolchain(*root, text, impl_->options.fsync);
}

std::vector<std::string> DiskCache::recorded_toolchains() const {
  std::vector<RecordedToolchain> all;
  const auto add = [&all](const Root& root) {
    for (RecordedToolchain& toolchain : read_toolchains(root)) all.push_back(std::move(toolchain));
  };
  for (const auto& layer : impl_->layers) add(*layer.root);
  if (const auto root = impl_->current_root()) add(*root);
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.modified_ns > b.modified_ns; });
  std::vector<std::string> texts;
  for (RecordedToolchain& toolchain : all) {
    if (std::find(texts.begin(), texts.end(), toolchain.text) == texts.end()) {
      texts.push_back(std::move(toolchain.text));
    }
  }
  return texts;
}

DirectoryState DiskCache::state() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->state;
}

std::string DiskCache::state_message() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->message;
}

Stats DiskCache::stats() const {
  const Counters& from = impl_->counters;
  Stats stats;
  stats.hits = from.hits;
  stats.directory_hits = from.directory_hits;
  std::copy(from.layer_hits.begin(), from.layer_hits.end(), stats.layer_hits.begin());
  stats.miss_absent = from.misses[kAbsent];
  stats.miss_truncated = from.misses[kTruncated];
  stats.miss_format = from.misses[kFormat];
  stats.miss_checksum = from.misses[kChecksum];
  stats.miss_key = from.misses[kKey];
  stats.miss_toolchain = from.misses[kToolchain];
  stats.miss_untrusted = from.misses[kUntrusted];
  stats.miss_io = from.misses[kIo];
  stats.misses = stats.miss_absent + stats.miss_truncated + stats.miss_format +
                 stats.miss_checksum + stats.miss_key + stats.miss_toolchain +
                 stats.miss_untrusted + stats.miss_io;
  stats.published = from.published;
  stats.publish_lost_race = from.publish_lost_race;
  stats.publish_failed = from.publish_failed;
  stats.quarantined = from.quarantined;
  stats.evicted = from.evicted;
  stats.lock_waits = from.lock_waits;
  stats.lock_timeouts = from.lock_timeouts;
  return stats;
}

std::vector<ListedEntry> DiskCache::list() const {
  std::vector<ListedEntry> listed;
  const auto root = impl_->current_root();
  if (!root) return listed;
  for (const ScannedEntry& scanned : scan_entries(*root)) {
    ReadResult read = read_file(*root, scanned.path, 0, kMaxEntryBytes);
    if (read.status == ReadStatus::kAbsent) continue;  // removed since the scan
    ListedEntry entry;
    entry.path = root->path + "/" + scanned.path;
    entry.bytes = static_cast<std::uint64_t>(scanned.identity.bytes);
    entry.modified_unix_s = scanned.identity.modified_ns / 1'000'000'000;
    entry.untrusted = read.status == ReadStatus::kUntrusted;
    entry.content = Defect::kTruncated;
    if (entry.untrusted || read.status == ReadStatus::kTooLarge) entry.content = Defect::kFormat;
    if (read.status == ReadStatus::kRead) entry.content = decode(read.bytes);
    const Entry* content = std::get_if<Entry>(&entry.content);
    if (content != nullptr && content->key != scanned.key) entry.content = Defect::kKeyMismatch;
    listed.push_back(std::move(entry));
  }
  return listed;
}

PruneResult DiskCache::prune(std::uint64_t max_bytes, bool everything) {
  const auto root = impl_->current_root();
  if (!root || !root->writable) return {};
  const PruneResult result = prune_root(*root, max_bytes, everything);
  impl_->counters.evicted += result.removed_entries;
  return result;
}

}  // namespace kiln::cache
