// Command lines: a table of flags per subcommand, strict parsing, and the help text made from it.
//
// Rules: "--flag VALUE" or "--flag=VALUE"; switches take no value; no flag twice; nothing unknown;
// no abbreviations. Every violation throws Error{kInvalidArgument} (exit code 2) with the flag, the
// value, the rule and, for an unknown flag, the nearest one.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kiln::tools {

struct Flag {
  std::string_view name;   // "--jobs"
  std::string_view value;  // placeholder in the help such as "N"; empty for a switch
  std::string_view help;   // of any length: it is wrapped
};

struct Command {
  std::string_view name;     // "warm", "cache list"
  std::string_view summary;  // one line
  std::string_view usage;    // what follows "kiln NAME"
  std::string_view details;  // paragraphs after the flags: output, exit codes; wrapped
  std::vector<Flag> flags;   // --help is added by itself
};

class Args {
 public:
  // `words` are the words behind the subcommand's name.
  Args(const Command& command, std::span<const std::string> words);

  bool wants_help() const { return has("--help"); }
  bool has(std::string_view flag) const;
  std::optional<std::string> text(std::string_view flag) const;
  std::string text(std::string_view flag, std::string_view fallback) const;
  // A flag that must be there.
  std::string required_text(std::string_view flag) const;

  // A whole number in [min, max].
  std::optional<std::int64_t> integer(std::string_view flag, std::int64_t min,
                                      std::int64_t max) const;
  std::int64_t integer(std::string_view flag, std::int64_t min, std::int64_t max,
                       std::int64_t fallback) const;
  std::int64_t required_integer(std::string_view flag, std::int64_t min, std::int64_t max) const;

  // Throws when both were given.
  void exclude(std::string_view flag, std::string_view other, std::string_view reason) const;

 private:
  const Flag& find(std::string_view name) const;

  const Command& command_;
  std::map<std::string_view, std::string> values_;  // by the flag's name in the table
};

std::string help_text(const Command& command);

// The environment variables that the engine reads, for the help texts.
std::string environment_text();

}  // namespace kiln::tools
