#include "tools/args.h"

#include <fmt/format.h>

#include <algorithm>

#include "jit/error.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

constexpr std::size_t kColumns = 96;  // of the help texts

constexpr Flag kHelpFlag{"--help", "", "print this text and exit"};

[[noreturn]] void usage_error(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

std::vector<std::string_view> flag_names(const Command& command) {
  std::vector<std::string_view> names;
  for (const Flag& flag : command.flags) names.push_back(flag.name);
  names.push_back(kHelpFlag.name);
  return names;
}

std::string indent(std::string_view text, std::size_t columns) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == '\n') out.append(columns, ' ');
  }
  return out;
}

std::string flag_lines(const std::vector<Flag>& flags) {
  constexpr std::size_t kHelpColumn = 24;
  std::string out;
  for (const Flag& flag : flags) {
    std::string left =
        fmt::format("  {}{}{}", flag.name, flag.value.empty() ? "" : " ", flag.value);
    if (left.size() + 2 > kHelpColumn) {
      left += '\n';
      left.append(kHelpColumn, ' ');
    } else {
      left.resize(kHelpColumn, ' ');
    }
    out += left + indent(wrap(flag.help, kColumns - kHelpColumn), kHelpColumn) + '\n';
  }
  return out;
}

}  // namespace

Args::Args(const Command& command, std::span<const std::string> words) : command_(command) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word.size() < 3 || word.substr(0, 2) != "--") {
      usage_error(fmt::format("unexpected word {}: kiln {} takes flags only, written --flag VALUE",
                              quote(word), command.name));
    }
    const std::size_t equals = word.find('=');
    const Flag& flag = find(word.substr(0, equals));
    if (values_.count(flag.name) != 0) {
      usage_error(fmt::format("{} is given twice: give it once", flag.name));
    }
    const bool is_switch = flag.value.empty();
    if (is_switch && equals != std::string_view::npos) {
      usage_error(
          fmt::format("{} takes no value, got {}", flag.name, quote(word.substr(equals + 1))));
    }
    std::string value;
    if (!is_switch && equals != std::string_view::npos) {
      value = word.substr(equals + 1);
    } else if (!is_switch) {
      // Values never start with two dashes, so "--m --n 8" is a forgotten value and not m = "--n".
      if (i + 1 >= words.size() || words[i + 1].rfind("--", 0) == 0) {
        usage_error(fmt::format("{} needs a value: {} {}", flag.name, flag.name, flag.value));
      }
      value = words[++i];
    }
    if (!is_switch && value.empty()) {
      usage_error(fmt::format("{} needs a value that is not empty: {} {}", flag.name, flag.name,
                              flag.value));
    }
    values_.emplace(flag.name, std::move(value));
  }
}

const Flag& Args::find(std::string_view name) const {
  if (name == kHelpFlag.name) return kHelpFlag;
  const auto found = std::find_if(command_.flags.begin(), command_.flags.end(),
                                  [&](const Flag& flag) { return flag.name == name; });
  if (found != command_.flags.end()) return *found;
  const std::vector<std::string_view> names = flag_names(command_);
  const std::string_view near = nearest(name, names);
  usage_error(fmt::format("unknown flag {}: {}kiln {} takes {}", quote(name),
                          near.empty() ? "" : fmt::format("did you mean {}? ", near), command_.name,
                          join(names, " ")));
}

bool Args::has(std::string_view flag) const { return values_.count(flag) != 0; }

std::optional<std::string> Args::text(std::string_view flag) const {
  const auto found = values_.find(flag);
  if (found == values_.end()) return std::nullopt;
  return found->second;
}

std::string Args::text(std::string_view flag, std::string_view fallback) const {
  return text(flag).value_or(std::string(fallback));
}

std::string Args::required_text(std::string_view flag) const {
  if (auto value = text(flag)) return *value;
  usage_error(fmt::format("{} is missing: kiln {} needs {} {}", flag, command_.name, flag,
                          find(flag).value));
}

std::optional<std::int64_t> Args::integer(std::string_view flag, std::int64_t min,
                                          std::int64_t max) const {
  const std::optional<std::string> value = text(flag);
  if (!value) return std::nullopt;
  const std::optional<ParsedInteger> parsed = parse_integer(*value);
  if (!parsed || parsed->overflow || parsed->value < min || parsed->value > max) {
    usage_error(fmt::format("{} must be a whole number from {} to {}, got {}", flag, min, max,
                            quote(*value)));
  }
  return parsed->value;
}

std::int64_t Args::integer(std::string_view flag, std::int64_t min, std::int64_t max,
                           std::int64_t fallback) const {
  return integer(flag, min, max).value_or(fallback);
}

std::int64_t Args::required_integer(std::string_view flag, std::int64_t min,
                                    std::int64_t max) const {
  required_text(flag);
  return *integer(flag, min, max);
}

void Args::exclude(std::string_view flag, std::string_view other, std::string_view reason) const {
  if (has(flag) && has(other)) {
    usage_error(
        fmt::format("{} and {} exclude each other ({}): give one of them", flag, other, reason));
  }
}

std::string help_text(const Command& command) {
  std::vector<Flag> flags = command.flags;
  flags.push_back(kHelpFlag);
  std::string out = fmt::format("kiln {}: {}\n\nUsage: kiln {} {}\n\nFlags:\n{}", command.name,
                                command.summary, command.name, command.usage, flag_lines(flags));
  if (!command.details.empty()) out += fmt::format("\n{}\n", wrap(command.details, kColumns));
  return out;
}

std::string environment_text() {
  return flag_lines({
      {"KILN_CACHE_DIR", "",
       "the cache directory (default $XDG_CACHE_HOME/kiln or ~/.cache/kiln), "
       "empty: none; --cache goes before it"},
      {"KILN_CACHE_PATH", "", "colon-separated read-only cache directories, searched first"},
      {"KILN_CHECK_GROUPS", "",
       "1: before each launch of a grouped layout read the group sizes back and check them"},
      {"KILN_LOG_LEVEL", "", "off, error, warning (default), info or debug; to stderr"},
      {"KILN_NO_COMPILE", "",
       "1: never compile, a kernel that is not in the cache is an error (exit 4)"},
      {"KILN_NVRTC", "", "the libnvrtc file to use, or its directory (default: search)"},
      {"KILN_TUNED", "",
       "colon-separated files of tuned tiles, which go before the built-in table; off: no tables"},
      {"KILN_VERIFY", "",
       "1: compile kernels that are in the cache, too, and compare; for tests, as slow as no "
       "cache"},
  });
}

}  // namespace kiln::tools
