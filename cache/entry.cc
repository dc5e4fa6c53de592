// The format of an entry, version 1.0. All numbers are little-endian.
//
//   off  size  field
//     0     8  magic 89 46 38 4B 0D 0A 1A 0A: a high bit, line ends, Ctrl-Z show text-mode damage
//     8   2+2  format major (another one is refused), minor (ignorable additions only)
//    12     4  header size, 256
//    16     8  file size, must be the real one: shows truncation and extension
//    24     4  section count, 2 to 4
//    28     4  flags, none defined; an unknown bit is refused
//    32    32  key: SHA-256 of the canonical key text
//    64    32  toolchain digest
//    96   2+2  SM number (90); feature letter 'a', then 0
//   100     4  compiler version, major << 16 | minor
//   104     8  created, Unix seconds
//   112    16  reserved, 0
//   128    96  section table: 4 x {u32 type, u32 0, u64 offset, u64 length}; unused slots are 0
//   224    32  SHA-256 over bytes [0, 224) and [256, file size)
//   256        sections
//
// Sections: 1 META and 2 CUBIN always, 3 LOG and 4 SOURCE when not empty; in ascending order of
// type, none empty, each at the next multiple of 64 with zeros before it; the last ends the file.
//
// META is a list of {u32 tag, u32 length, value}: every tag of visit_meta() below, once, in
// ascending order. Numbers have the size of their field. Tags above the known ones, ascending too,
// come from a newer minor version and are passed over.
#include "cache/entry.h"

#include <array>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>

#include "cache/left_out.h"
#include "cache/sha256.h"

namespace kiln::cache {
namespace {

constexpr std::array<std::uint8_t, 8> kMagic = {0x89, 0x46, 0x38, 0x4b, 0x0d, 0x0a, 0x1a, 0x0a};
constexpr std::uint16_t kMajor = 1;
constexpr std::uint16_t kMinor = 0;
constexpr std::uint8_t kFeatureLetter = 'a';

constexpr std::size_t kOffsetMajor = 8;
constexpr std::size_t kOffsetMinor = 10;
constexpr std::size_t kOffsetHeaderSize = 12;
constexpr std::size_t kOffsetFileSize = 16;
constexpr std::size_t kOffsetSectionCount = 24;
constexpr std::size_t kOffsetFlags = 28;
constexpr std::size_t kOffsetKey = 32;
constexpr std::size_t kOffsetToolchain = 64;
constexpr std::size_t kOffsetSm = 96;
constexpr std::size_t kOffsetFeature = 98;
constexpr std::size_t kOffsetCompiler = 100;
constexpr std::size_t kOffsetCreated = 104;
constexpr std::size_t kOffsetReserved = 112;
constexpr std::size_t kOffsetTable = 128;
constexpr std::size_t kOffsetChecksum = 224;

constexpr std::size_t kSlots = 4;
constexpr std::size_t kSlotBytes = 24;
constexpr std::size_t kAlignment = 64;
static_assert(kOffsetTable + kSlots * kSlotBytes == kOffsetChecksum,
              "the table ends at the checksum");
static_assert(kOffsetChecksum + sizeof(Digest) == kHeaderBytes, "the checksum ends the header");
static_assert(kHeaderBytes % kAlignment == 0, "the first section follows the header at once");

enum SectionType : std::uint32_t { kMetaSection = 1, kCubinSection, kLogSection, kSourceSection };

using Bytes = std::span<const std::byte>;

struct Section {
  std::uint32_t type = 0;
  Bytes bytes;
};

template <typename T>
void put(std::byte* to, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}

template <typename T>
T get(const std::byte* from) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | static_cast<T>(from[i]) << (8 * i));
  }
  return value;
}

std::size_t aligned(std::size_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

bool all_zero(Bytes bytes) {
  for (const std::byte byte : bytes) {
    if (byte != std::byte{0}) return false;
  }
  return true;
}

// The one list of META's tags, for writing and reading. A tag is never reused.
template <typename EntryType, typename Visitor>
void visit_meta(EntryType& entry, Visitor&& visit) {
  visit(1u, entry.key_text);
  visit(2u, entry.description);
  visit(3u, entry.kernel_name);
  visit(4u, entry.threads);
  visit(5u, entry.cluster);
  visit(6u, entry.dynamic_smem_bytes);
  visit(7u, entry.param_bytes);
  visit(8u, entry.registers);
  visit(9u, entry.spill_store_bytes);
  visit(10u, entry.spill_load_bytes);
  visit(11u, entry.stack_bytes);
  visit(12u, entry.static_smem_bytes);
  visit(13u, entry.compile_us);
}
constexpr std::uint32_t kLastTag = 13;
constexpr std::size_t kRecordHeaderBytes = 8;

class MetaWriter {
 public:
  void operator()(std::uint32_t tag, const std::string& text) {
    assert(text.size() <= std::numeric_limits<std::uint32_t>::max());
    begin(tag, static_cast<std::uint32_t>(text.size()));
    const Bytes bytes = std::as_bytes(std::span(text));
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  template <typename T>
  void operator()(std::uint32_t tag, const T& number) {
    begin(tag, sizeof(T));
    append(number);
  }
  const std::vector<std::byte>& bytes() const { return out_; }

 private:
  void begin(std::uint32_t tag, std::uint32_t length) {
    append(tag);
    append(length);
  }
  template <typename T>
  void append(T number) {
    out_.resize(out_.size() + sizeof(T));
    put(out_.data() + out_.size() - sizeof(T), number);
  }

  std::vector<std::byte> out_;
};

class MetaReader {
 public:
  explicit MetaReader(Bytes bytes) : left_(bytes) {}

  void operator()(std::uint32_t tag, std::string& text) {
    if (const auto value = expect(tag)) {
      text.assign(reinterpret_cast<const char*>(value->data()), value->size());
    }
  }
  template <typename T>
  void operator()(std::uint32_t tag, T& number) {
    const auto value = expect(tag);
    if (!value) return;
    ok_ = value->size() == sizeof(T);
    if (ok_) number = get<T>(value->data());
  }

  // Passes over the records of a newer minor version; true when all of META was well formed.
  bool finish() {
    std::uint32_t last = kLastTag;
    while (ok_ && !left_.empty()) {
      const auto record = next();
      if (!record) break;
      ok_ = record->first > last;
      last = record->first;
    }
    return ok_;
  }

 private:
  std::optional<std::pair<std::uint32_t, Bytes>> next() {
    ok_ = ok_ && left_.size() >= kRecordHeaderBytes;
    if (!ok_) return std::nullopt;
    const auto tag = get<std::uint32_t>(left_.data());
    const auto length = get<std::uint32_t>(left_.data() + 4);
    left_ = left_.subspan(kRecordHeaderBytes);
    ok_ = length <= left_.size();
    if (!ok_) return std::nullopt;
    const Bytes value = left_.first(length);
    left_ = left_.subspan(length);
    return std::pair(tag, value);
  }
  std::optional<Bytes> expect(std::uint32_t tag) {
    const auto record = next();
    if (!record) return std::nullopt;
    ok_ = record->first == tag;
    if (!ok_) return std::nullopt;
    return record->second;
  }

  Bytes left_;
  bool ok_ = true;
};

Digest checksum(Bytes bytes) {
  Sha256 hash;
  hash.update(bytes.first(kOffsetChecksum));
  hash.update(bytes.subspan(kHeaderBytes));
  return hash.finish();
}

Digest get_digest(Bytes bytes, std::size_t offset) {
  Digest digest;
  std::memcpy(digest.data(), bytes.data() + offset, digest.size());
  return digest;
}

// Every field of the header but the key, the toolchain, the section table and the checksum.
std::optional<Defect> check_header(Bytes bytes) {
  if (bytes.size() < kHeaderBytes) return Defect::kTruncated;
  const std::byte* header = bytes.data();
  if (std::memcmp(header, kMagic.data(), kMagic.size()) != 0) return Defect::kFormat;
  if (get<std::uint16_t>(header + kOffsetMajor) != kMajor) return Defect::kFormat;
  if (get<std::uint32_t>(header + kOffsetHeaderSize) != kHeaderBytes) return Defect::kFormat;
  if (get<std::uint64_t>(header + kOffsetFileSize) != bytes.size()) return Defect::kTruncated;
  if (bytes.size() > kMaxEntryBytes) return Defect::kFormat;
  if (get<std::uint32_t>(header + kOffsetFlags) != 0) return Defect::kFormat;
  if (get<std::uint8_t>(header + kOffsetFeature) != kFeatureLetter) return Defect::kFormat;
  if (get<std::uint8_t>(header + kOffsetFeature + 1) != 0) return Defect::kFormat;
  if (!all_zero(bytes.subspan(kOffsetReserved, kOffsetTable - kOffsetReserved))) {
    return Defect::kFormat;
  }
  return std::nullopt;
}

// The section table, bounds only: what lies between the sections is looked at after the checksum.
std::optional<std::array<Section, kSlots>> read_table(Bytes bytes) {
  const auto count = get<std::uint32_t>(bytes.data() + kOffsetSectionCount);
  if (count < 2 || count > kSlots) return std::nullopt;
  const Bytes table = bytes.subspan(kOffsetTable, kSlots * kSlotBytes);
  std::array<Section, kSlots> sections;
  std::uint64_t end = kHeaderBytes;
  std::uint32_t last_type = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::byte* slot = table.data() + i * kSlotBytes;
    const auto type = get<std::uint32_t>(slot);
    const auto offset = get<std::uint64_t>(slot + 8);
    const auto length = get<std::uint64_t>(slot + 16);
    if (type <= last_type || type > kSourceSection) return std::nullopt;
    if (get<std::uint32_t>(slot + 4) != 0) return std::nullopt;
    if (offset != aligned(end) || offset > bytes.size()) return std::nullopt;
    if (length == 0 || length > bytes.size() - offset) return std::nullopt;
    sections[i] = {type, bytes.subspan(offset, length)};
    end = offset + length;
    last_type = type;
  }
  if (sections[0].type != kMetaSection || sections[1].type != kCubinSection) return std::nullopt;
  if (end != bytes.size() || !all_zero(table.subspan(count * kSlotBytes))) return std::nullopt;
  return sections;
}

bool gaps_are_zero(Bytes bytes, const std::array<Section, kSlots>& sections) {
  std::size_t end = kHeaderBytes;
  for (const Section& section : sections) {
    if (section.type == 0) break;
    const auto offset = static_cast<std::size_t>(section.bytes.data() - bytes.data());
    if (!all_zero(bytes.subspan(end, offset - end))) return false;
    end = offset + section.bytes.size();
  }
  return true;
}

std::string to_text(Bytes bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void write_header(std::byte* header, const Entry& entry, std::size_t file_size, std::size_t count) {
  assert(entry.sm <= std::numeric_limits<std::uint16_t>::max());
  std::memcpy(header, kMagic.data(), kMagic.size());
  put(header + kOffsetMajor, kMajor);
  put(header + kOffsetMinor, kMinor);
  put(header + kOffsetHeaderSize, static_cast<std::uint32_t>(kHeaderBytes));
  put(header + kOffsetFileSize, static_cast<std::uint64_t>(file_size));
  put(header + kOffsetSectionCount, static_cast<std::uint32_t>(count));
  std::memcpy(header + kOffsetKey, entry.key.data(), entry.key.size());
  std::memcpy(header + kOffsetToolchain, entry.toolchain.data(), entry.toolchain.size());
  put(header + kOffsetSm, static_cast<std::uint16_t>(entry.sm));
  put(header + kOffsetFeature, kFeatureLetter);
  put(header + kOffsetCompiler, entry.compiler_version);
  put(header + kOffsetCreated, entry.created_unix_s);
}

}  // namespace

std::string_view name(Defect defect) {
  switch (defect) {
    case Defect::kTruncated: return "truncated";
    case Defect::kFormat: return "format";
    case Defect::kChecksum: return "checksum";
    case Defect::kKeyMismatch: return "key mismatch";
    case Defect::kToolchain: return "toolchain";
    case Defect::kMeta: return "meta";
  }
  return "unknown";
}

std::vector<std::byte> encode(const Entry& entry) {
  MetaWriter meta;
  visit_meta(entry, meta);
  std::array<Section, kSlots> sections = {Section{kMetaSection, meta.bytes()},
                                          Section{kCubinSection, entry.cubin}};
  std::size_t count = 2;
  if (!entry.log.empty()) {
    sections[count++] = {kLogSection, std::as_bytes(std::span(entry.log))};
  }
  if (!entry.source.empty()) {
    sections[count++] = {kSourceSection, std::as_bytes(std::span(entry.source))};
  }

  std::size_t file_size = kHeaderBytes;
  for (std::size_t i = 0; i < count; ++i) file_size = aligned(file_size) + sections[i].bytes.size();
  std::vector<std::byte> out(file_size);
  write_header(out.data(), entry, file_size, count);
  std::size_t end = kHeaderBytes;
  for (std::size_t i = 0; i < count; ++i) {
    const Bytes bytes = sections[i].bytes;
    const std::size_t offset = aligned(end);
    std::byte* slot = out.data() + kOffsetTable + i * kSlotBytes;
    put(slot, sections[i].type);
    put(slot + 8, static_cast<std::uint64_t>(offset));
    put(slot + 16, static_cast<std::uint64_t>(bytes.size()));
    if (!bytes.empty()) std::memcpy(out.data() + offset, bytes.data(), bytes.size());
    end = offset + bytes.size();
  }
  const Digest sum = checksum(out);
  std::memcpy(out.data() + kOffsetChecksum, sum.data(), sum.size());
  return out;
}

std::variant<Entry, Defect> decode(std::span<const std::byte> bytes) {
  if (const auto defect = check_header(bytes)) return *defect;
  const auto sections = read_table(bytes);
  if (!sections) return Defect::kFormat;
  const bool intact = checksum(bytes) == get_digest(bytes, kOffsetChecksum);
  if (!intact && kLeftOut != Protection::no_checksum) return Defect::kChecksum;

  // From here on the bytes are those that some writer meant; it may still be a hostile one.
  if (!gaps_are_zero(bytes, *sections)) return Defect::kFormat;
  Entry entry;
  MetaReader meta((*sections)[0].bytes);
  visit_meta(entry, meta);
  if (!meta.finish()) return Defect::kMeta;
  entry.key = get_digest(bytes, kOffsetKey);
  entry.toolchain = get_digest(bytes, kOffsetToolchain);
  entry.sm = get<std::uint16_t>(bytes.data() + kOffsetSm);
  entry.compiler_version = get<std::uint32_t>(bytes.data() + kOffsetCompiler);
  entry.created_unix_s = get<std::uint64_t>(bytes.data() + kOffsetCreated);
  for (const Section& section : *sections) {
    const Bytes content = section.bytes;
    if (section.type == kCubinSection) entry.cubin.assign(content.begin(), content.end());
    if (section.type == kLogSection) entry.log = to_text(content);
    if (section.type == kSourceSection) entry.source = to_text(content);
  }
  return entry;
}

}  // namespace kiln::cache
