#include "tests/fuzz/formats.h"

#include <cstring>
#include <stdexcept>

#include "cache/bundle.h"
#include "cache/entry.h"

namespace kiln::test {
namespace {

using cache::Entry;

void promise(bool kept, const char* what) {
  if (!kept) throw std::logic_error(what);
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void put_u64(std::string& bytes, std::size_t at, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
}
std::uint64_t get_u64(std::string_view bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i)
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  return value;
}
void put_digest(std::string& bytes, std::size_t at, const cache::Digest& digest) {
  std::memcpy(bytes.data() + at, digest.data(), digest.size());
}

// As the engine makes them: the key is the digest of the key text, which holds the toolchain.
Entry sample(int number, std::size_t cubin_bytes, bool with_texts) {
  const std::string toolchain = "nvrtc 13.0 build=abc [--std=c++17]";
  cache::KeyBuilder key("kiln-kernel-1");
  key.add("entry", "kernel_" + std::to_string(number)).add("toolchain", toolchain);
  Entry entry;
  entry.key = key.digest();
  entry.toolchain = cache::sha256(toolchain);
  entry.compiler_version = 13u << 16;
  entry.key_text = key.text();
  entry.description = "a kernel for a fuzzer";
  entry.kernel_name = "kernel_" + std::to_string(number);
  entry.threads = 384;
  entry.dynamic_smem_bytes = 200'000;
  entry.param_bytes = 896;
  entry.registers = 168;
  entry.cubin.resize(cubin_bytes);
  for (std::size_t i = 0; i < cubin_bytes; ++i)
    entry.cubin[i] = static_cast<std::byte>(i * 31 + static_cast<std::size_t>(number));
  if (with_texts) {
    entry.log = "ptxas info: 168 registers";
    entry.source = "extern \"C\" __global__ void kernel() {}";
  }
  return entry;
}

constexpr std::size_t kEntrySizeAt = 16, kEntrySealAt = 224;
constexpr std::size_t kBundleHeaderBytes = 64, kTrailerBytes = 64, kItemBytes = 80;

}  // namespace

// ---- Entries ----

bool accepts_entry(std::string_view bytes) {
  const auto decoded = cache::decode(bytes_of(bytes));
  if (!std::holds_alternative<Entry>(decoded)) return false;
  const Entry& entry = std::get<Entry>(decoded);
  promise(entry.cubin.size() <= bytes.size(), "an entry is not larger than its file");
  const auto again = cache::decode(cache::encode(entry));
  promise(std::holds_alternative<Entry>(again) && std::get<Entry>(again) == entry,
          "an accepted entry survives being written");
  return true;
}

std::vector<std::string> entry_seeds() {
  std::vector<std::string> seeds;
  int number = 0;
  for (const std::size_t bytes : {1, 64, 300, 65'536})
    for (const bool with_texts : {false, true})
      seeds.push_back(text_of(cache::encode(sample(++number, bytes, with_texts))));
  seeds.emplace_back();
  seeds.emplace_back(cache::kHeaderBytes, '\0');
  seeds.push_back(seeds.front().substr(0, cache::kHeaderBytes));
  return seeds;
}

std::string reseal_entry(std::string bytes) {
  if (bytes.size() < cache::kHeaderBytes) return bytes;
  put_u64(bytes, kEntrySizeAt, bytes.size());
  const std::string sealed = bytes.substr(0, kEntrySealAt) + bytes.substr(cache::kHeaderBytes);
  put_digest(bytes, kEntrySealAt, cache::sha256(sealed));
  return bytes;
}

// ---- Bundles ----

bool accepts_bundle(std::string_view bytes) {
  const auto opened = cache::Bundle::of_bytes(bytes_of(bytes));
  if (const auto* error = std::get_if<cache::BundleError>(&opened)) {
    promise(!error->message.empty(), "a refusal says why");
    return false;
  }
  const auto& bundle = std::get<cache::Bundle>(opened);
  std::vector<Entry> entries;
  for (const cache::BundleItem& item : bundle.items()) {
    auto entry = bundle.read(item);
    promise(std::holds_alternative<Entry>(entry), "what was verified can be read");
    entries.push_back(std::move(std::get<Entry>(entry)));
    promise(cache::bundle_problem(entries.back()).empty(), "what was verified belongs in a bundle");
  }
  const auto again = cache::encode_bundle(std::move(entries));
  promise(std::holds_alternative<std::vector<std::byte>>(again), "a bundle can be written again");
  return true;
}

std::vector<std::string> bundle_seeds() {
  std::vector<std::string> seeds;
  for (const int count : {0, 1, 3, 20}) {
    std::vector<Entry> entries;
    for (int i = 0; i < count; ++i)
      entries.push_back(sample(i, 100 + static_cast<std::size_t>(i) * 77, i % 2 == 0));
    const auto encoded = cache::encode_bundle(std::move(entries));
    promise(std::holds_alternative<std::vector<std::byte>>(encoded), "good entries make a bundle");
    seeds.push_back(text_of(std::get<std::vector<std::byte>>(encoded)));
  }
  seeds.emplace_back();
  seeds.emplace_back(kBundleHeaderBytes + kTrailerBytes, '\0');
  std::string many = seeds.front();  // says that it has more entries than any file could hold
  put_u64(many, many.size() - kTrailerBytes + 8, std::uint64_t{1} << 62);
  seeds.push_back(reseal_bundle(many));
  return seeds;
}

// From the inside out: each entry that the manifest can be followed to, the manifest, the whole.
std::string reseal_bundle(std::string bytes) {
  if (bytes.size() < kBundleHeaderBytes + kTrailerBytes) return bytes;
  const std::size_t trailer = bytes.size() - kTrailerBytes;
  const std::uint64_t manifest = get_u64(bytes, trailer), length = get_u64(bytes, trailer + 8);
  if (manifest <= trailer && length <= trailer - manifest) {
    for (std::uint64_t item = manifest; item + kItemBytes <= manifest + length;
         item += kItemBytes) {
      const std::uint64_t offset = get_u64(bytes, item + 64), size = get_u64(bytes, item + 72);
      if (offset > manifest || size > manifest - offset) continue;
      const std::string entry = reseal_entry(bytes.substr(offset, size));
      bytes.replace(offset, size, entry);
      put_digest(bytes, item + 32, cache::sha256(entry));
    }
  }
  put_u64(bytes, trailer + 16, bytes.size());
  put_digest(bytes, bytes.size() - 32,
             cache::sha256(std::string_view(bytes).substr(0, bytes.size() - 32)));
  return bytes;
}

}  // namespace kiln::test
