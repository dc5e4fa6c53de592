#include <algorithm>
#include <cstring>
#include <functional>

#include "cache/entry.h"
#include "support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using Bytes = std::vector<std::byte>;

Entry golden_entry() {
  Entry entry;
  for (std::size_t i = 0; i < entry.key.size(); ++i) entry.key[i] = static_cast<std::uint8_t>(i);
  entry.toolchain.fill(0xaa);
  entry.compiler_version = 13u << 16 | 2;
  entry.created_unix_s = 0x0102030405060708;
  entry.key_text = "key";
  entry.description = "what";
  entry.kernel_name = "kernel";
  entry.threads = 384;
  entry.cluster = 2;
  entry.dynamic_smem_bytes = 0x123456789;
  entry.param_bytes = 576;
  entry.registers = 168;
  entry.spill_store_bytes = 1;
  entry.spill_load_bytes = 2;
  entry.stack_bytes = 3;
  entry.static_smem_bytes = 4;
  entry.compile_us = 5;
  entry.cubin = {std::byte{0x7f}, std::byte{'E'}, std::byte{'L'}, std::byte{'F'}};
  entry.log = "log";
  return entry;
}

std::string hex_of(std::span<const std::byte> bytes) {
  std::string hex;
  for (const std::byte byte : bytes) {
    hex += "0123456789abcdef"[static_cast<int>(byte) >> 4];
    hex += "0123456789abcdef"[static_cast<int>(byte) & 15];
  }
  return hex;
}

bool accepted(const Bytes& bytes) { return std::holds_alternative<Entry>(decode(bytes)); }

// What decode() says: a defect's name, or "accepted".
std::string verdict(const Bytes& bytes) {
  const auto decoded = decode(bytes);
  const Defect* defect = std::get_if<Defect>(&decoded);
  return defect != nullptr ? std::string(name(*defect)) : "accepted";
}

void put_number(Bytes& bytes, std::size_t offset, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    bytes[offset + i] = static_cast<std::byte>(value >> (8 * i));
  }
}

// Makes the checksum right again, as a hostile writer would.
void seal(Bytes& bytes) {
  Bytes summed(bytes.begin(), bytes.begin() + 224);
  summed.insert(summed.end(), bytes.begin() + 256, bytes.end());
  const Digest sum = sha256(summed);
  std::memcpy(bytes.data() + 224, sum.data(), sum.size());
}

// An entry of golden_entry() with one thing changed and the checksum and file size made right.
std::string forged(const std::function<void(Bytes&)>& change) {
  Bytes bytes = encode(golden_entry());
  change(bytes);
  put_number(bytes, 16, bytes.size(), 8);
  seal(bytes);
  return verdict(bytes);
}

constexpr std::size_t kSlot0 = 128, kSlot1 = 152, kSlot2 = 176, kSlot3 = 200;
constexpr std::size_t kType = 0, kReserved = 4, kOffset = 8, kLength = 16;

}  // namespace

TEST_CASE("an encoded entry decodes to itself", "[cache][entry]") {
  for (const std::size_t size : {1, 63, 64, 65, 300, 65536, 1'000'003}) {
    const Entry entry = sample_entry(size, size);
    const Bytes bytes = encode(entry);
    CHECK(bytes == encode(entry));
    const auto decoded = decode(bytes);
    REQUIRE(std::holds_alternative<Entry>(decoded));
    CHECK(std::get<Entry>(decoded) == entry);
  }
}

TEST_CASE("an entry without log, source or texts decodes to itself", "[cache][entry]") {
  for (int parts = 0; parts < 4; ++parts) {
    Entry entry;
    entry.cubin = {std::byte{1}};
    if ((parts & 1) != 0) entry.log = std::string("a\0b", 3);
    if ((parts & 2) != 0) entry.source = std::string(1, '\n');
    const auto decoded = decode(encode(entry));
    REQUIRE(std::holds_alternative<Entry>(decoded));
    CHECK(std::get<Entry>(decoded) == entry);
  }
}

// The bytes come from a separate writer of the format, not from encode().
TEST_CASE("the bytes of a fixed entry never change within format 1", "[cache][entry]") {
  const Bytes bytes = encode(golden_entry());
  CHECK(hex_of(std::span(bytes).first(256)) ==
        "8946384b0d0a1a0a010000000001000003020000000000000300000000000000"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "5a00610002000d00080706050403020100000000000000000000000000000000"
        "01000000000000000001000000000000a1000000000000000200000000000000"
        "c001000000000000040000000000000003000000000000000002000000000000"
        "0300000000000000000000000000000000000000000000000000000000000000"
        "49d9252c039f54342cfd10aef69dfc05eeb7baaad9784efd0b5ac1f89289d8c1");
  CHECK(bytes.size() == 515);
  CHECK(to_hex(sha256(bytes)) ==
        "dda6d3f5a49eb3136419f2cb92d8ca7ad3b9adcd384df5c19074e4683ea292f7");
}

TEST_CASE("an entry cut short at any length is refused", "[cache][entry]") {
  const Bytes bytes = encode(sample_entry(1, 2000));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto decoded = decode(std::span(bytes).first(size));
    REQUIRE(std::holds_alternative<Defect>(decoded));
    REQUIRE(std::get<Defect>(decoded) == Defect::kTruncated);
  }
}

TEST_CASE("an entry with anything appended is refused", "[cache][entry]") {
  const Bytes bytes = encode(sample_entry(1, 2000));
  for (std::size_t extra = 1; extra <= 4096; ++extra) {
    Bytes longer = bytes;
    longer.resize(bytes.size() + extra);
    REQUIRE(verdict(longer) == "truncated");
  }
}

TEST_CASE("an entry with any single bit flipped is refused", "[cache][entry][C1]") {
  Bytes bytes = encode(golden_entry());
  REQUIRE(accepted(bytes));
  for (std::byte& byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      byte ^= static_cast<std::byte>(1 << bit);
      REQUIRE_FALSE(accepted(bytes));
      byte ^= static_cast<std::byte>(1 << bit);
    }
  }
}

TEST_CASE("twenty thousand random mutations of a large entry are refused", "[cache][entry][C1]") {
  const Bytes original = encode(sample_entry(3, 40'000));
  Random random(17);
  Bytes bytes = original;
  for (int i = 0; i < kiln::test::by_build(20'000, 4000); ++i) {
    const std::size_t offset = random.below(original.size());
    const std::size_t room = original.size() - offset;
    std::size_t length = std::min<std::size_t>(room, 1 + random.below(16));
    switch (random.below(5)) {
      case 0:  // one bit
        length = 1;
        bytes[offset] ^= static_cast<std::byte>(1 << random.below(8));
        break;
      case 1:  // a few random bytes
        std::generate_n(bytes.begin() + offset, length,
                        [&] { return static_cast<std::byte>(random.next()); });
        break;
      case 2:  // a block of zeros, as a file system leaves after a crash
        length = std::min<std::size_t>(room, random.below(2) == 0 ? 512 : 4096);
        std::fill_n(bytes.begin() + offset, length, std::byte{0});
        break;
      case 3:  // bytes from elsewhere in the entry
        std::generate_n(bytes.begin() + offset, length,
                        [&] { return original[random.below(original.size())]; });
        break;
      default:  // truncated or extended
        bytes.resize(random.below(2 * original.size()));
        break;
    }
    if (bytes != original) REQUIRE_FALSE(accepted(bytes));
    if (bytes.size() != original.size()) bytes = original;
    std::copy_n(original.begin() + offset, length, bytes.begin() + offset);
  }
}

TEST_CASE("a forged header is refused although its checksum is right", "[cache][entry]") {
  const auto with = [](std::size_t offset, std::uint64_t value, std::size_t size) {
    return forged([=](Bytes& b) { put_number(b, offset, value, size); });
  };
  CHECK(forged([](Bytes&) {}) == "accepted");
  CHECK(with(10, 7, 2) == "accepted");  // a newer minor version
  CHECK(with(8, 2, 2) == "format");     // another major version
  CHECK(with(8, 0, 2) == "format");
  CHECK(with(12, 255, 4) == "format");
  CHECK(with(12, 512, 4) == "format");
  for (int bit = 0; bit < 32; ++bit) CHECK(with(28, std::uint64_t{1} << bit, 4) == "format");
  CHECK(with(98, 'b', 1) == "format");
  CHECK(with(99, 1, 1) == "format");
  for (std::size_t i = 112; i < 128; ++i) CHECK(with(i, 1, 1) == "format");
  for (const std::uint64_t count : {0u, 1u, 2u, 4u, 5u, 6u, 7u, 0xffffffffu}) {
    CHECK(with(24, count, 4) == "format");
  }
}

TEST_CASE("a wrong file size in the header is a truncation", "[cache][entry]") {
  Bytes bytes = encode(golden_entry());
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{255}, bytes.size() - 1,
                                   bytes.size() + 1, ~std::uint64_t{0}}) {
    put_number(bytes, 16, size, 8);
    seal(bytes);
    CHECK(verdict(bytes) == "truncated");
  }
}

TEST_CASE("a forged section table is refused although its checksum is right", "[cache][entry]") {
  const auto with = [](std::size_t offset, std::uint64_t value, std::size_t size = 8) {
    return forged([=](Bytes& b) { put_number(b, offset, value, size); });
  };
  const std::uint64_t huge = ~std::uint64_t{0};
  for (const std::size_t slot : {kSlot0, kSlot1, kSlot2}) {
    for (const std::uint64_t offset :
         {std::uint64_t{0}, std::uint64_t{255}, std::uint64_t{257}, std::uint64_t{1} << 32, huge,
          huge - 63, std::uint64_t{1} << 63, std::uint64_t{64}, std::uint64_t{192}}) {
      CHECK(with(slot + kOffset, offset) == "format");
    }
    for (const std::uint64_t length : {std::uint64_t{0}, huge, huge - 255, std::uint64_t{1} << 63,
                                       std::uint64_t{100'000}}) {
      CHECK(with(slot + kLength, length) == "format");
    }
    for (const std::uint64_t type : {0u, 5u, 6u, 0xffffffffu}) {
      CHECK(with(slot + kType, type, 4) == "format");
    }
    CHECK(with(slot + kReserved, 1, 4) == "format");
  }
  CHECK(with(kSlot0 + kType, 2, 4) == "format");  // META missing, CUBIN twice
  CHECK(with(kSlot1 + kType, 1, 4) == "format");
  CHECK(with(kSlot1 + kType, 3, 4) == "format");  // CUBIN missing, LOG twice
  CHECK(with(kSlot2 + kType, 2, 4) == "format");
  for (std::size_t i = 0; i < 24; ++i) CHECK(with(kSlot3 + i, 1, 1) == "format");  // unused slot
}

TEST_CASE("bytes hidden between or behind the sections are refused", "[cache][entry]") {
  const Bytes bytes = encode(golden_entry());
  std::uint64_t meta_end = 0;
  std::memcpy(&meta_end, bytes.data() + kSlot0 + kLength, 8);
  meta_end += 256;
  REQUIRE(meta_end % 64 != 0);
  CHECK(forged([&](Bytes& b) { b[meta_end] = std::byte{1}; }) == "format");
  CHECK(forged([&](Bytes& b) { b[(meta_end + 63) / 64 * 64 - 1] = std::byte{1}; }) == "format");
  CHECK(forged([](Bytes& b) { b.push_back(std::byte{0}); }) == "format");
  CHECK(forged([](Bytes& b) { b.resize(b.size() + 64); }) == "format");
}

TEST_CASE("damaged META is refused although the checksum is right", "[cache][entry]") {
  // The first record is key_text: tag 1, length 3, "key"; the second, description, at 256 + 11.
  const auto with = [](std::size_t offset, std::uint64_t value, std::size_t size) {
    return forged([=](Bytes& b) { put_number(b, offset, value, size); });
  };
  CHECK(with(256, 2, 4) == "meta");           // out of order
  CHECK(with(256, 0, 4) == "meta");
  CHECK(with(256, 99, 4) == "meta");          // an unknown tag before a known one
  CHECK(with(260, 0xffffffff, 4) == "meta");  // longer than META
  CHECK(with(260, 2, 4) == "meta");           // the rest is read out of step
  CHECK(with(267, 1, 4) == "meta");           // a tag twice
  std::uint64_t length = 0;
  const Bytes bytes = encode(golden_entry());
  std::memcpy(&length, bytes.data() + kSlot0 + kLength, 8);
  const std::uint64_t padded_end = (256 + length + 63) / 64 * 64;
  for (std::uint64_t shorter = 1; shorter < length; ++shorter) {
    // Zeros follow META, so its next section stays where it is only within the last 64 bytes.
    if ((256 + shorter + 63) / 64 * 64 != padded_end) continue;
    CHECK(forged([&](Bytes& b) {
      put_number(b, kSlot0 + kLength, shorter, 8);
      std::fill(b.begin() + 256 + shorter, b.begin() + 256 + length, std::byte{0});
    }) == "meta");
  }
}

TEST_CASE("META records of a newer minor version are passed over", "[cache][entry]") {
  const Bytes bytes = encode(golden_entry());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data() + kSlot0 + kLength, 8);
  const std::size_t end = 256 + length;
  REQUIRE(64 - end % 64 >= 9);  // room for one record in the padding
  const auto append = [&](std::uint32_t tag, std::uint32_t value_bytes) {
    return forged([&](Bytes& b) {
      put_number(b, end, tag, 4);
      put_number(b, end + 4, value_bytes, 4);
      b[end + 8] = std::byte{'x'};
      put_number(b, kSlot0 + kLength, length + 9, 8);
    });
  };
  CHECK(append(14, 1) == "accepted");
  CHECK(append(1000, 1) == "accepted");
  CHECK(append(13, 1) == "meta");
  CHECK(append(14, 2) == "meta");
  CHECK(append(14, 0) == "meta");
}

TEST_CASE("random tables and META under a right checksum never crash", "[cache][entry]") {
  const Bytes original = encode(golden_entry());
  Random random(23);
  for (int i = 0; i < 50'000; ++i) {
    Bytes bytes = original;
    const std::uint64_t changes = 1 + random.below(4);
    for (std::uint64_t j = 0; j < changes; ++j) {
      const std::size_t offset = 112 + random.below(bytes.size() - 112);
      const std::uint64_t values[] = {0, 1, 0xff, random.next()};
      const std::size_t size = std::min<std::size_t>(bytes.size() - offset, 1 << random.below(4));
      put_number(bytes, offset, values[random.below(4)], size);
    }
    seal(bytes);
    const auto decoded = decode(bytes);
    if (const Entry* entry = std::get_if<Entry>(&decoded)) {
      REQUIRE(entry->cubin.size() + entry->key_text.size() + entry->log.size() <= bytes.size());
    }
  }
}

TEST_CASE("two hundred thousand random inputs never crash and are refused", "[cache][entry]") {
  const Bytes original = encode(golden_entry());
  Random random(29);
  for (int i = 0; i < 200'000; ++i) {
    Bytes bytes(random.below(700));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
    if (bytes.size() >= 256 && i % 2 == 0) {  // get past the first checks
      std::copy_n(original.begin(), 128, bytes.begin());
      put_number(bytes, 16, bytes.size(), 8);
    }
    REQUIRE_FALSE(accepted(bytes));
  }
}

TEST_CASE("every defect has a name of its own", "[cache][entry]") {
  CHECK(name(Defect::kTruncated) == "truncated");
  CHECK(name(Defect::kFormat) == "format");
  CHECK(name(Defect::kChecksum) == "checksum");
  CHECK(name(Defect::kKeyMismatch) == "key mismatch");
  CHECK(name(Defect::kToolchain) == "toolchain");
  CHECK(name(Defect::kMeta) == "meta");
}

}  // namespace kiln::cache::test
