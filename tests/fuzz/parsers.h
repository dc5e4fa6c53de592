// The parsers of bytes that others may have written, each as one function for a fuzzer: of files in
// the cache, of bundles, and of the three kinds of JSON.
//
// A parser accepts or refuses. Anything else is a finding: a crash, a hang, memory out of
// proportion, another exception than Error, or an accepted value that breaks a promise
// (std::logic_error).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kiln::test {

struct FuzzedParser {
  const char* name;                   // "entry"; also of the fuzz target and of its corpus
  bool (*accepts)(std::string_view);  // throws std::logic_error for a broken promise
  std::vector<std::string> (
      *seeds)();  // good inputs of every kind, and hostile ones; deterministic
  // Makes the sizes and checksums of the format right again after damage, so that what lies behind
  // them is reached; null where there are none.
  std::string (*reseal)(std::string);
  std::vector<std::string_view> dictionary;  // words that mutations may insert
};

std::span<const FuzzedParser> fuzzed_parsers();
const FuzzedParser* find_fuzzed_parser(std::string_view name);  // null: no such parser

// Both forms of one input: as it is, and resealed. For the fuzz targets.
void run_fuzzed(const FuzzedParser& parser, std::string_view bytes);

}  // namespace kiln::test
