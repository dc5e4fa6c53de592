#include "cache/digest.h"

#include "cache/sha256.h"

namespace kiln::cache {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";

// "<bytes>:<text>": the length comes first and ends at the first colon, so whatever the text holds,
// a reader knows where it ends.
void append_counted(std::string& out, std::string_view text) {
  out += std::to_string(text.size());
  out += ':';
  out += text;
}

}  // namespace

Digest sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

Digest sha256(std::string_view text) { return sha256(std::as_bytes(std::span(text))); }

std::string to_hex(const Digest& digest) {
  std::string hex;
  hex.reserve(2 * digest.size());
  for (const std::uint8_t byte : digest) {
    hex += kHexDigits[byte >> 4];
    hex += kHexDigits[byte & 15];
  }
  return hex;
}

// Lower case only: a file name must have one spelling.
std::optional<Digest> digest_from_hex(std::string_view hex) {
  Digest digest{};
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  for (std::size_t i = 0; i < hex.size(); ++i) {
    const std::size_t value = kHexDigits.find(hex[i]);
    if (value == std::string_view::npos) return std::nullopt;
    digest[i / 2] = static_cast<std::uint8_t>(digest[i / 2] << 4 | value);
  }
  return digest;
}

// The text is "<counted schema>\n" and then per field "<counted label>=<type><counted value>\n"
// with type 's' for text and 'i' for an integer in decimal. Each part says where it ends, so the
// text reads back in one way only; the line ends are there for people.
KeyBuilder::KeyBuilder(std::string_view schema) {
  append_counted(text_, schema);
  text_ += '\n';
}

KeyBuilder& KeyBuilder::add(std::string_view label, std::string_view value) {
  append_counted(text_, label);
  text_ += "=s";
  append_counted(text_, value);
  text_ += '\n';
  return *this;
}

KeyBuilder& KeyBuilder::add(std::string_view label, std::int64_t value) {
  append_counted(text_, label);
  text_ += "=i";
  append_counted(text_, std::to_string(value));
  text_ += '\n';
  return *this;
}

}  // namespace kiln::cache
