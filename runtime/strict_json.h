// JSON from untrusted files: parsed with limits before anything looks at it, and read with checks
// that name the place.
//
// Every failure throws Error{kInvalidArgument}; the message starts with the file and the place:
// "shapes.json: problems[3].n: must be a whole number from 1 to 2147483136, got \"7168\"".
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace kiln::runtime {

struct JsonLimits {
  std::size_t max_bytes = std::size_t{8} << 20;
  int max_depth = 16;  // arrays and objects within one another
};

// The whole file. Refuses what is larger than max_bytes, directories, and what cannot be read.
std::string read_file(const std::string& path, const JsonLimits& limits = {});

// UTF-8 JSON text (no comments) -> value. Refuses syntax errors (with line and column), nesting
// beyond max_depth, and a key that appears twice in one object. `file` is for the messages. The
// parser keeps no recursion of its own, so depth costs no stack before it is refused.
nlohmann::json parse_json(std::string_view text, const std::string& file,
                          const JsonLimits& limits = {});

// A value of a document with its place, and the checks on it.
class JsonView {
 public:
  JsonView(const nlohmann::json& value, std::string file, std::string place)
      : value_(value), file_(std::move(file)), place_(std::move(place)) {}

  // "problems[3].n", for messages; "the document" at the top.
  std::string place() const { return place_.empty() ? "the document" : place_; }
  const std::string& file() const { return file_; }

  // An object with no other keys than these; the message lists them and the nearest.
  void expect_object(std::span<const std::string_view> accepted_keys) const;
  // An array of min..max elements.
  std::size_t expect_array(std::size_t min, std::size_t max) const;

  bool has(std::string_view key) const { return value_.contains(key); }
  JsonView at(std::string_view key) const;  // fails when the key is missing
  JsonView at(std::size_t index) const;

  std::int64_t integer(std::int64_t min, std::int64_t max) const;
  double number(double min, double max) const;
  bool boolean() const;
  std::string string(std::size_t max_bytes) const;

  [[noreturn]] void fail(const std::string& rule) const;
  // Like fail(), with what was found: "must be X, got Y".
  [[noreturn]] void fail_value(const std::string& rule) const;

 private:
  const nlohmann::json& value_;
  std::string file_;
  std::string place_;
};

}  // namespace kiln::runtime
