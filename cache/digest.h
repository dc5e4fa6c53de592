// SHA-256, and digests over labelled, length-prefixed fields.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace kiln::cache {

using Digest = std::array<std::uint8_t, 32>;

Digest sha256(std::span<const std::byte> bytes);
Digest sha256(std::string_view text);
std::string to_hex(const Digest& digest);                   // 64 lower-case characters
std::optional<Digest> digest_from_hex(std::string_view hex);

// Builds the canonical key: a versioned byte string of (label, value) pairs, each with its length
// written before it, so that no two different field lists give the same bytes. Order matters and is
// the caller's: fields are added in a fixed order, containers sorted first.
class KeyBuilder {
 public:
  explicit KeyBuilder(std::string_view schema);
  KeyBuilder& add(std::string_view label, std::string_view value);
  KeyBuilder& add(std::string_view label, std::int64_t value);
  const std::string& text() const { return text_; }  // the canonical bytes, stored in the entry
  Digest digest() const { return sha256(text_); }

 private:
  std::string text_;
};

}  // namespace kiln::cache
