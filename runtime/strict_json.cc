#include "runtime/strict_json.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "jit/error.h"
#include "runtime/text.h"

namespace kiln::runtime {
namespace {

using nlohmann::json;

[[noreturn]] void bad(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

// "line 3, column 7" of the last of `read` bytes.
std::string position_text(std::string_view text, std::size_t read) {
  const std::string_view before = text.substr(0, std::min(read > 0 ? read - 1 : 0, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');  // npos + 1 is 0
  return fmt::format("line {}, column {}", line, before.size() - (newline + 1) + 1);
}

// Builds the value from the parser's events and keeps the path of where it is, so that a refusal
// says where. Every callback returns false to stop the parser; `error` then says why.
class Builder final : public json::json_sax_t {
 public:
  Builder(std::string_view text, int max_depth) : text_(text), max_depth_(max_depth) {}

  json take() { return std::move(root_); }
  const std::string& error() const { return error_; }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return refuse("binary values are not JSON"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (level.value->contains(name)) {
      level.key.clear();  // the place is the object
      return refuse(
          fmt::format("the key {} appears twice in one object: remove one of them", quote(name)));
    }
    level.key = std::move(name);
    return true;
  }

  bool parse_error(std::size_t offset, const std::string& token, const json::exception&) override {
    error_ = fmt::format("{}: not valid JSON near {}", position_text(text_, offset), quote(token));
    return false;
  }

 private:
  struct Level {
    json* value;      // an object or array, owned by its parent or root_
    std::string key;  // objects: of the member that comes next
  };

  // Of the value that comes next.
  std::string path() const {
    std::string path;
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      const Level& level = levels_[i];
      if (level.value->is_array()) {
        // An open element is in its array already.
        path += fmt::format("[{}]", level.value->size() - (i + 1 < levels_.size() ? 1 : 0));
      } else if (!level.key.empty()) {
        if (!path.empty()) path += '.';
        path += printable(level.key);
      }
    }
    return path;
  }

  bool refuse(const std::string& reason) {
    const std::string place = path();
    error_ = place.empty() ? reason : fmt::format("{}: {}", place, reason);
    return false;
  }

  json* insert(json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.value->is_array()) {
      level.value->push_back(std::move(value));
      return &level.value->back();
    }
    return &((*level.value)[level.key] = std::move(value));
  }

  bool add(json value) {
    insert(std::move(value));
    return true;
  }

  // Elements of an open container are only ever appended behind it, so pointers to the open ones
  // stay valid until they are closed.
  bool open(json container) {
    if (levels_.size() >= static_cast<std::size_t>(max_depth_)) {
      return refuse(fmt::format("nested deeper than {} levels", max_depth_));
    }
    levels_.push_back({insert(std::move(container)), {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string_view text_;
  int max_depth_;
  json root_;
  std::vector<Level> levels_;
  std::string error_;
};

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::string read_file(const std::string& path, const JsonLimits& limits) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) bad(fmt::format("{}: cannot be opened: {}", path, std::strerror(errno)));
  std::string text;
  std::vector<char> buffer(std::size_t{64} << 10);
  for (;;) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) bad(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
    if (count == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(count));
    // Checked while reading and not by the file's size: pipes and devices have none.
    if (text.size() > limits.max_bytes) {
      bad(fmt::format("{}: larger than {}, the most that is read", path,
                      human_bytes(limits.max_bytes)));
    }
  }
}

json parse_json(std::string_view text, const std::string& file, const JsonLimits& limits) {
  Builder builder(text, limits.max_depth);
  if (!json::sax_parse(text.begin(), text.end(), &builder))
    bad(fmt::format("{}: {}", file, builder.error()));
  return builder.take();
}

void JsonView::fail(const std::string& rule) const {
  bad(fmt::format("{}: {}: {}", file_, place(), rule));
}

void JsonView::fail_value(const std::string& rule) const {
  std::string found;
  if (value_.is_object()) {
    found = "an object";
  } else if (value_.is_array()) {
    found = fmt::format("an array of {}", value_.size());
  } else if (value_.is_string()) {
    found = quote(value_.get_ref<const std::string&>());
  } else {
    found = value_.dump();
  }
  fail(fmt::format("{}, got {}", rule, found));
}

void JsonView::expect_object(std::span<const std::string_view> accepted_keys) const {
  if (!value_.is_object()) fail_value("must be an object");
  for (const auto& [key, unused] : value_.items()) {
    if (std::find(accepted_keys.begin(), accepted_keys.end(), key) != accepted_keys.end()) continue;
    const std::string_view near = nearest(key, accepted_keys);
    fail(fmt::format("unknown key {}: {}accepted are {}", quote(key),
                     near.empty() ? "" : fmt::format("did you mean {}? ", quote(near)),
                     join(accepted_keys, ", ")));
  }
}

std::size_t JsonView::expect_array(std::size_t min, std::size_t max) const {
  if (!value_.is_array() || value_.size() < min || value_.size() > max) {
    fail_value(fmt::format("must be an array of {} to {} elements", min, max));
  }
  return value_.size();
}

JsonView JsonView::at(std::string_view key) const {
  if (!has(key)) fail(fmt::format("the key {} is missing", quote(key)));
  return {value_.at(std::string(key)), file_,
          (place_.empty() ? "" : place_ + ".") + std::string(key)};
}

JsonView JsonView::at(std::size_t index) const {
  return {value_.at(index), file_, fmt::format("{}[{}]", place_, index)};
}

std::int64_t JsonView::integer(std::int64_t min, std::int64_t max) const {
  const std::string rule = fmt::format("must be a whole number from {} to {}", min, max);
  if (!value_.is_number_integer()) fail_value(rule);
  // Values above the signed range are stored unsigned; min is never negative enough to matter.
  if (value_.is_number_unsigned() &&
      value_.get<std::uint64_t>() > static_cast<std::uint64_t>(max)) {
    fail_value(rule);
  }
  const auto value = value_.get<std::int64_t>();
  if (value < min || value > max) fail_value(rule);
  return value;
}

double JsonView::number(double min, double max) const {
  const std::string rule = fmt::format("must be a number from {} to {}", min, max);
  if (!value_.is_number()) fail_value(rule);
  const auto value = value_.get<double>();
  if (!(value >= min && value <= max)) fail_value(rule);
  return value;
}

bool JsonView::boolean() const {
  if (!value_.is_boolean()) fail_value("must be true or false");
  return value_.get<bool>();
}

std::string JsonView::string(std::size_t max_bytes) const {
  if (!value_.is_string()) fail_value("must be a string");
  const auto& text = value_.get_ref<const std::string&>();
  if (text.size() > max_bytes)
    fail(fmt::format("must be at most {} bytes, got {}", max_bytes, text.size()));
  return text;
}

}  // namespace kiln::runtime
