// The format of a bundle, version 1.0. All numbers are little-endian.
//
//   off  size  field
//     0     8  magic 89 4B 4C 42 0D 0A 1A 0A
//     8   2+2  format major (another one is refused), minor (ignorable additions only)
//    12     4  header size, 64
//    16    48  reserved, 0
//    64        entries in ascending order of key, each as its file in a cache would be, each at the
//              next multiple of 64 with zeros before it
//     .        manifest at the next multiple of 64: per entry {key 32, SHA-256 of the entry 32,
//              u64 offset, u64 length}
//   -64     8  manifest offset
//   -56     8  manifest length
//   -48     8  file size, must be the real one
//   -40     8  reserved, 0
//   -32    32  SHA-256 over everything before it
//
// A set of entries has one such file and no other: order, places and gaps follow from the entries.
#include "cache/bundle.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>

#include "cache/files.h"
#include "cache/sha256.h"
#include "cache/toolchains.h"

namespace kiln::cache {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::array<std::uint8_t, 8> kMagic = {0x89, 0x4b, 0x4c, 0x42, 0x0d, 0x0a, 0x1a, 0x0a};
constexpr std::uint16_t kMajor = 1;
constexpr std::uint16_t kMinor = 0;
constexpr std::size_t kBundleHeaderBytes = 64;
constexpr std::size_t kTrailerBytes = 64;
constexpr std::size_t kItemBytes = 80;
constexpr std::size_t kAlignment = 64;
constexpr int kMaxRetries = 100;  // of an interrupted read

template <typename T>
void append(std::vector<std::byte>& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out.push_back(static_cast<std::byte>(value >> (8 * i)));
  }
}

void append(std::vector<std::byte>& out, const Digest& digest) {
  const Bytes bytes = std::as_bytes(std::span(digest));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <typename T>
T get(Bytes bytes, std::size_t offset) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | static_cast<T>(bytes[offset + i]) << (8 * i));
  }
  return value;
}

Digest get_digest(Bytes bytes, std::size_t offset) {
  Digest digest;
  std::memcpy(digest.data(), bytes.data() + offset, digest.size());
  return digest;
}

std::uint64_t aligned(std::uint64_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

bool all_zero(Bytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

std::string short_hex(const Digest& key) { return to_hex(key).substr(0, 16); }

BundleError damaged(const std::string& what) {
  return {"the bundle is damaged or incomplete: " + what + "; copy or export it again"};
}

BundleError unreadable(int error) {
  return {"the bundle cannot be read: " + error_text(error) + "; check the file system"};
}

BundleError bad_entry(const Digest& key, const std::string& what) {
  return damaged("the entry of key " + short_hex(key) + " " + what);
}

std::vector<std::byte> header() {
  std::vector<std::byte> out;
  for (const std::uint8_t byte : kMagic) out.push_back(std::byte{byte});
  append(out, kMajor);
  append(out, kMinor);
  append(out, static_cast<std::uint32_t>(kBundleHeaderBytes));
  out.resize(kBundleHeaderBytes);
  return out;
}

std::optional<BundleError> check_header(Bytes bytes) {
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    return BundleError{"this is not a bundle of Kiln: make one with `kiln cache export`"};
  if (const auto major = get<std::uint16_t>(bytes, 8); major != kMajor) {
    return BundleError{"the bundle has format " + std::to_string(major) +
                       ", this version of Kiln reads " + std::to_string(kMajor) +
                       ": export it again with this version"};
  }
  if (get<std::uint32_t>(bytes, 12) != kBundleHeaderBytes || !all_zero(bytes.subspan(16)))
    return damaged("its header is not valid");
  return std::nullopt;
}

// One field of the canonical key text, whose form is in digest.cc; nullopt when the text breaks
// that form before the field or has none of that name.
class KeyText {
 public:
  explicit KeyText(std::string_view text) : rest_(text) {}
  std::optional<std::string_view> text_field(std::string_view wanted) {
    if (!counted() || !skip("\n")) return std::nullopt;
    while (!rest_.empty()) {
      const auto label = counted();
      const bool is_text = rest_.starts_with("=s");
      if (!label || !(skip("=s") || skip("=i"))) return std::nullopt;
      const auto value = counted();
      if (!value || !skip("\n")) return std::nullopt;
      if (is_text && *label == wanted) return value;
    }
    return std::nullopt;
  }

 private:
  bool skip(std::string_view what) {
    if (!rest_.starts_with(what)) return false;
    rest_.remove_prefix(what.size());
    return true;
  }
  std::optional<std::string_view> counted() {
    constexpr std::size_t kMaxDigits = 9;
    std::size_t length = 0, digits = 0;
    while (digits < rest_.size() && digits <= kMaxDigits && rest_[digits] >= '0' &&
           rest_[digits] <= '9') {
      length = length * 10 + static_cast<std::size_t>(rest_[digits++] - '0');
    }
    if (digits == 0 || digits > kMaxDigits || !skip_to(digits)) return std::nullopt;
    if (length > rest_.size()) return std::nullopt;
    const std::string_view value = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return value;
  }
  bool skip_to(std::size_t digits) {
    rest_.remove_prefix(digits);
    return skip(":");
  }

  std::string_view rest_;
};

// What decode() cannot know: that these are the bytes of a bundle's entry of this key.
std::variant<Entry, BundleError> accept(const BundleItem& item, Bytes bytes) {
  if (sha256(bytes) != item.content) return bad_entry(item.key, "does not match its digest");
  auto decoded = decode(bytes);
  if (const Defect* defect = std::get_if<Defect>(&decoded))
    return bad_entry(item.key, "is not valid (" + std::string(name(*defect)) + ")");
  Entry& entry = std::get<Entry>(decoded);
  if (entry.key != item.key) return bad_entry(item.key, "holds another key's kernel");
  if (const std::string problem = bundle_problem(entry); !problem.empty())
    return bad_entry(item.key, problem);
  if (entry.created_unix_s != 0 || entry.compile_us != 0 || !entry.log.empty())
    return bad_entry(item.key, "has times or a log, which bundles do not hold");
  return std::move(entry);
}

}  // namespace

Entry bundled(Entry entry) {
  entry.created_unix_s = 0;
  entry.compile_us = 0;
  entry.log.clear();
  return entry;
}

std::string toolchain_text(const Entry& entry) {
  const auto text = KeyText(entry.key_text).text_field("toolchain");
  if (!text || sha256(*text) != entry.toolchain) return {};
  return std::string(*text);
}

std::string bundle_problem(const Entry& entry) {
  if (sha256(entry.key_text) != entry.key)
    return "has a key that is not the digest of its key text";
  const std::string toolchain = toolchain_text(entry);
  if (toolchain.empty()) return "does not name the toolchain that made it";
  if (toolchain.size() > kMaxToolchainBytes) return "names a toolchain in more than 4096 bytes";
  if (entry.cubin.empty()) return "has no cubin";
  return {};
}

// ---- Writing ----

std::variant<std::vector<std::byte>, BundleError> encode_bundle(std::vector<Entry> entries) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.key < b.key; });
  const auto is_same_key = [](const Entry& a, const Entry& b) { return a.key == b.key; };
  entries.erase(std::unique(entries.begin(), entries.end(), is_same_key), entries.end());
  if (entries.size() > kMaxBundleEntries)
    return BundleError{"a bundle holds at most 100000 entries, got " +
                       std::to_string(entries.size()) + ": make several"};

  std::vector<std::byte> out = header();
  std::vector<std::byte> manifest;
  std::set<Digest> toolchains;
  for (Entry& entry : entries) {
    if (const std::string problem = bundle_problem(entry); !problem.empty())
      return BundleError{"the entry of key " + short_hex(entry.key) + " " + problem +
                         ": remove it with `kiln cache prune` and compile it again"};
    toolchains.insert(entry.toolchain);
    const std::vector<std::byte> bytes = encode(bundled(std::move(entry)));
    out.resize(aligned(out.size()));
    append(manifest, entry.key);
    append(manifest, sha256(bytes));
    append(manifest, std::uint64_t{out.size()});
    append(manifest, std::uint64_t{bytes.size()});
    if (bytes.size() > kMaxEntryBytes || out.size() + bytes.size() > kMaxBundleBytes / 2)
      return BundleError{"the entries are larger than a bundle can be (4 GiB): make several"};
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  if (toolchains.size() > kMaxToolchains)
    return BundleError{"a bundle holds kernels of at most 64 toolchains, got " +
                       std::to_string(toolchains.size()) + ": make several"};
  out.resize(aligned(out.size()));
  const std::uint64_t manifest_offset = out.size();
  out.insert(out.end(), manifest.begin(), manifest.end());
  append(out, manifest_offset);
  append(out, std::uint64_t{manifest.size()});
  append(out, std::uint64_t{out.size() + kTrailerBytes - 16});
  append(out, std::uint64_t{0});
  append(out, sha256(out));
  return out;
}

// ---- Reading ----

std::variant<Bundle, BundleError> Bundle::open(const std::string& path,
                                               const std::optional<Digest>& pinned) {
  return open(path, pinned, real_files());
}

std::variant<Bundle, BundleError> Bundle::open(const std::string& path,
                                               const std::optional<Digest>& pinned,
                                               const Files& files) {
  // Not blocking, so that a pipe of that name is an error and not a wait.
  OpenResult opened = open_at(files, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (!opened.fd) return BundleError{"the bundle cannot be opened: " + error_text(opened.error)};
  struct stat status {};
  if (files.fstat(opened.fd.get(), &status) != 0) return unreadable(errno);
  if (!S_ISREG(status.st_mode)) return BundleError{"the bundle must be a regular file"};
  const auto fd = std::make_shared<const Fd>(std::move(opened.fd));
  ReadAt read_at = [fd, &files](std::uint64_t offset, std::span<std::byte> to) {
    int retries = 0;
    while (!to.empty()) {
      const ssize_t count =
          files.pread(fd->get(), to.data(), to.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR && ++retries < kMaxRetries) continue;
      if (count < 0) return errno;
      if (count == 0) return ENODATA;
      offset += static_cast<std::uint64_t>(count);
      to = to.subspan(static_cast<std::size_t>(count));
    }
    return 0;
  };
  return verified(std::move(read_at), static_cast<std::uint64_t>(status.st_size), pinned);
}

std::variant<Bundle, BundleError> Bundle::of_bytes(std::span<const std::byte> bytes,
                                                   const std::optional<Digest>& pinned) {
  ReadAt read_at = [bytes](std::uint64_t offset, std::span<std::byte> to) {
    if (offset > bytes.size() || to.size() > bytes.size() - offset) return ENODATA;
    if (!to.empty()) std::memcpy(to.data(), bytes.data() + offset, to.size());
    return 0;
  };
  return verified(std::move(read_at), bytes.size(), pinned);
}

std::variant<Bundle, BundleError> Bundle::verified(ReadAt read_at, std::uint64_t bytes,
                                                   const std::optional<Digest>& pinned) {
  Bundle bundle(std::move(read_at), bytes);
  if (auto error = bundle.read_items()) return std::move(*error);
  if (auto error = bundle.verify(pinned)) return std::move(*error);
  return bundle;
}

// Header, trailer and manifest: sizes and places only, against the size that the file has.
std::optional<BundleError> Bundle::read_items() {
  if (bytes_ < kBundleHeaderBytes + kTrailerBytes)
    return damaged("it has " + std::to_string(bytes_) + " bytes");
  if (bytes_ > kMaxBundleBytes) return BundleError{"the bundle is larger than 8 GiB: make several"};
  std::vector<std::byte> head(kBundleHeaderBytes), tail(kTrailerBytes);
  if (const int error = read_at_(0, head)) return unreadable(error);
  if (auto error = check_header(head)) return error;
  if (const int error = read_at_(bytes_ - kTrailerBytes, tail)) return unreadable(error);
  const auto offset = get<std::uint64_t>(tail, 0);
  const auto length = get<std::uint64_t>(tail, 8);
  if (get<std::uint64_t>(tail, 16) != bytes_)
    return damaged("its size, " + std::to_string(bytes_) + " bytes, is not the one written in it");
  if (get<std::uint64_t>(tail, 24) != 0) return damaged("its trailer is not valid");
  const std::uint64_t room = bytes_ - kTrailerBytes - kBundleHeaderBytes;
  if (length > room || length % kItemBytes != 0 || length / kItemBytes > kMaxBundleEntries ||
      offset != bytes_ - kTrailerBytes - length) {
    return damaged("its manifest is not where or not as large as it can be");
  }
  manifest_.resize(length);
  if (const int error = read_at_(offset, manifest_)) return unreadable(error);
  std::uint64_t end = kBundleHeaderBytes;
  for (std::size_t at = 0; at < manifest_.size(); at += kItemBytes) {
    const BundleItem item{get_digest(manifest_, at), get_digest(manifest_, at + 32),
                          get<std::uint64_t>(manifest_, at + 64),
                          get<std::uint64_t>(manifest_, at + 72)};
    const bool ascends = items_.empty() || items_.back().key < item.key;
    if (!ascends || item.bytes < kHeaderBytes || item.bytes > kMaxEntryBytes ||
        item.offset != aligned(end) || item.offset > offset || item.bytes > offset - item.offset) {
      return damaged("entry " + std::to_string(items_.size()) + " of its manifest is not valid");
    }
    end = item.offset + item.bytes;
    items_.push_back(item);
  }
  if (aligned(end) != offset) return damaged("there are bytes that belong to no entry");
  return std::nullopt;
}

// Every byte once, in order: the gaps, the entries, and the digest of it all.
std::optional<BundleError> Bundle::verify(const std::optional<Digest>& pinned) {
  Sha256 hash;
  std::vector<std::byte> buffer;
  std::set<Digest> toolchains;
  std::uint64_t at = 0;
  const auto take = [&](std::uint64_t bytes) {
    buffer.resize(bytes);
    const int error = read_at_(at, buffer);
    hash.update(buffer);
    at += bytes;
    return error;
  };
  const auto take_gap = [&](std::uint64_t end) -> std::optional<BundleError> {
    if (const int error = take(end - at)) return unreadable(error);
    if (!all_zero(buffer)) return damaged("there are bytes between its entries");
    return std::nullopt;
  };
  if (const int error = take(kBundleHeaderBytes)) return unreadable(error);
  for (const BundleItem& item : items_) {
    if (auto error = take_gap(item.offset)) return error;
    if (const int error = take(item.bytes)) return unreadable(error);
    auto accepted = accept(item, buffer);
    if (auto* error = std::get_if<BundleError>(&accepted)) return std::move(*error);
    toolchains.insert(std::get<Entry>(accepted).toolchain);
  }
  if (toolchains.size() > kMaxToolchains) return damaged("it names more than 64 toolchains");
  if (auto error = take_gap(aligned(at))) return error;
  hash.update(manifest_);
  at += manifest_.size();
  if (const int error = take(kTrailerBytes - sizeof(Digest))) return unreadable(error);
  Sha256 whole = hash;
  const Digest sum = hash.finish();
  buffer.resize(sizeof(Digest));
  if (const int error = read_at_(at, buffer)) return unreadable(error);
  if (get_digest(buffer, 0) != sum) return damaged("its digest does not match its bytes");
  whole.update(buffer);
  digest_ = whole.finish();
  if (pinned && *pinned != digest_) {
    return BundleError{"the bundle's SHA-256 is " + to_hex(digest_) + " and not " +
                       to_hex(*pinned) + ", which was asked for: get the right file"};
  }
  return std::nullopt;
}

std::variant<Entry, BundleError> Bundle::read(const BundleItem& item) const {
  std::vector<std::byte> bytes(item.bytes);
  if (const int error = read_at_(item.offset, bytes)) return unreadable(error);
  return accept(item, bytes);
}

// ---- Using ----

ImportResult import_bundle(const Bundle& bundle, DiskCache& cache) {
  ImportResult result;
  std::set<std::string> recorded;
  for (const BundleItem& item : bundle.items()) {
    auto read = bundle.read(item);
    if (auto* error = std::get_if<BundleError>(&read)) {
      result.error = error->message;
      return result;
    }
    const Entry& entry = std::get<Entry>(read);
    if (const auto there = cache.lookup(entry.key, entry.toolchain)) {
      (bundled(*there) == entry ? result.present : result.conflicting).push_back(item.key);
    } else if (cache.publish(entry)) {
      result.added.push_back(item.key);
    } else {
      result.error = "the entry of key " + short_hex(item.key) +
                     " could not be stored in the cache: make room there or name another "
                     "directory, then import again";
      return result;
    }
    // A machine without a compiler forms keys with these.
    if (std::string text = toolchain_text(entry); recorded.insert(text).second)
      cache.record_toolchain(text);
  }
  return result;
}

BundleDiff diff(std::span<const BundleItem> first, std::span<const BundleItem> second) {
  BundleDiff result;
  std::size_t a = 0, b = 0;
  while (a < first.size() || b < second.size()) {
    if (b == second.size() || (a < first.size() && first[a].key < second[b].key)) {
      result.only_first.push_back(first[a++].key);
    } else if (a == first.size() || second[b].key < first[a].key) {
      result.only_second.push_back(second[b++].key);
    } else {
      const bool same = first[a].content == second[b].content;
      (same ? result.same : result.conflicting).push_back(first[a].key);
      ++a, ++b;
    }
  }
  return result;
}

}  // namespace kiln::cache
