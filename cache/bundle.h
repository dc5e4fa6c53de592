// A bundle: one file that carries a set of cache entries from one machine to another (format in
// bundle.cc). Knows no GEMM and no CUDA.
//
// Deterministic: the same kernels give the same bytes, in whatever order, on whatever machine and
// day they were compiled. For that an entry in a bundle has no times and no compile log.
//
// Nothing of a bundle is believed before it was checked: every size against the file's own before
// anything is allocated, every entry against its digest, its key and the cache's own format, the
// whole against its digest. As with a cache directory this detects accidents and not attackers:
// whoever made a bundle can run code on the GPU. A digest that came by another way pins it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "cache/digest.h"
#include "cache/disk_cache.h"
#include "cache/entry.h"

namespace kiln::cache {

struct Files;

inline constexpr std::size_t kMaxBundleEntries = 100'000;
inline constexpr std::uint64_t kMaxBundleBytes = std::uint64_t{8} << 30;

// The form that an entry has in a bundle: without its times and its log.
Entry bundled(Entry entry);

// The compiler's fingerprint that the entry's key was formed with, from the key text; empty when
// the text has none or it is not the one that the entry says.
std::string toolchain_text(const Entry& entry);

// Why an entry cannot be part of a bundle, in words that complete "the entry ..."; empty: it can.
// Its key must be the digest of its key text, and the text must hold the toolchain: a machine
// without a compiler could not find it otherwise.
std::string bundle_problem(const Entry& entry);

struct BundleItem {
  Digest key{};
  Digest content{};  // SHA-256 of the entry's bytes in a bundle
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool operator==(const BundleItem&) const = default;
};

struct BundleError {
  std::string message;  // rule, place and remedy; without the file's name
};

// The bytes of a bundle. Entries are brought into bundled() form and sorted; of several with one
// key the first stays. The first that bundle_problem() objects to is the error.
std::variant<std::vector<std::byte>, BundleError> encode_bundle(std::vector<Entry> entries);

// An opened bundle of which every byte was verified. Thread-safe; move-only.
class Bundle {
 public:
  // Reads the file once. `pinned` is what the SHA-256 of the whole file must be. Never throws but
  // std::bad_alloc; holds one entry in memory at a time.
  static std::variant<Bundle, BundleError> open(const std::string& path,
                                                const std::optional<Digest>& pinned = {});
  static std::variant<Bundle, BundleError> open(const std::string& path,
                                                const std::optional<Digest>& pinned,
                                                const Files& files);
  // The same of bytes in memory, which must outlive the bundle.
  static std::variant<Bundle, BundleError> of_bytes(std::span<const std::byte> bytes,
                                                    const std::optional<Digest>& pinned = {});

  const std::vector<BundleItem>& items() const { return items_; }  // ascending by key
  const Digest& digest() const { return digest_; }                 // of the whole file
  std::uint64_t bytes() const { return bytes_; }

  // One of items(), read and verified again: the file may have changed since it was opened.
  std::variant<Entry, BundleError> read(const BundleItem& item) const;

 private:
  // Fills the span from an offset; an errno value, 0 is success.
  using ReadAt = std::function<int(std::uint64_t, std::span<std::byte>)>;

  Bundle(ReadAt read_at, std::uint64_t bytes) : read_at_(std::move(read_at)), bytes_(bytes) {}
  static std::variant<Bundle, BundleError> verified(ReadAt read_at, std::uint64_t bytes,
                                                    const std::optional<Digest>& pinned);
  std::optional<BundleError> read_items();
  std::optional<BundleError> verify(const std::optional<Digest>& pinned);

  ReadAt read_at_;
  std::uint64_t bytes_ = 0;
  std::vector<std::byte> manifest_;
  std::vector<BundleItem> items_;
  Digest digest_{};
};

// What an import did, by key, ascending. Whatever happens, what is in the cache is whole entries.
struct ImportResult {
  std::vector<Digest> added;
  std::vector<Digest> present;      // the cache has the same kernel already
  std::vector<Digest> conflicting;  // ... another one under this key; it stays
  std::string error;                // not empty: stopped there
};

// Publishes every entry as after a compile, and records their toolchains. A damaged entry of the
// cache is replaced.
ImportResult import_bundle(const Bundle& bundle, DiskCache& cache);

// Keys in the first list only, in the second only, in both with other and with the same content.
struct BundleDiff {
  std::vector<Digest> only_first, only_second, conflicting, same;
};
BundleDiff diff(std::span<const BundleItem> first, std::span<const BundleItem> second);

}  // namespace kiln::cache
