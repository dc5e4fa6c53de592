// fuzz_seeds PARSER DIRECTORY: writes the parser's seeds of up to 1 MiB as files for libFuzzer, and
// its dictionary, if it has one, to DIRECTORY.dict.
#include <cstdio>
#include <fstream>
#include <string>

#include "tests/fuzz/parsers.h"

namespace {

void write_dictionary(const kiln::test::FuzzedParser& parser, const std::string& path) {
  std::ofstream out(path);
  for (const std::string_view word : parser.dictionary) {
    out << '"';
    for (const char c : word) out << (c == '"' || c == '\\' ? "\\" : "") << c;
    out << "\"\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto* const parser = argc == 3 ? kiln::test::find_fuzzed_parser(argv[1]) : nullptr;
  if (parser == nullptr) {
    std::fprintf(stderr, "fuzz_seeds: usage: fuzz_seeds PARSER DIRECTORY; the parsers are");
    for (const auto& known : kiln::test::fuzzed_parsers()) std::fprintf(stderr, " %s", known.name);
    std::fprintf(stderr, "\n");
    return 2;
  }
  const std::string directory = argv[2];
  int number = 0;
  bool good = true;
  for (const std::string& seed : parser->seeds()) {
    if (seed.size() > std::size_t{1} << 20) continue;
    std::ofstream out(directory + "/seed-" + std::to_string(number++), std::ios::binary);
    good = out.write(seed.data(), static_cast<std::streamsize>(seed.size())).good() && good;
  }
  if (!parser->dictionary.empty()) write_dictionary(*parser, directory + ".dict");
  if (!good) std::fprintf(stderr, "fuzz_seeds: cannot write to %s\n", directory.c_str());
  return good ? 0 : 1;
}
