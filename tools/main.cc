// kiln: warm, run, explain and look after the kernels of Kiln.
//
// Finds the subcommand, and turns every failure into one message on stderr and an exit code.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "tools/args.h"
#include "tools/commands.h"
#include "tools/text.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {
namespace {

struct Subcommand {
  std::string_view name;
  std::string_view summary;
  int (*main)(Words);
};

constexpr Subcommand kSubcommands[] = {
    {"warm", "compile every kernel of a shapes file into the cache; needs no GPU", warm},
    {"run", "run problems on the GPU, or a simulated one; check and time them", run},
    {"bench", "compare kernel times with cuBLASLt, references and the roofline", bench_command},
    {"tune", "measure which tiles are fastest, for configs/tuned", tune},
    {"explain", "say which tile a problem gets at some M, and why", explain},
    {"cache", "look after a cache directory, and carry kernels in bundles", cache_command},
    {"doctor", "say what was found on this machine and what is missing", doctor},
    {"version", "print the version", version},
};

std::string top_help() {
  std::string out =
      "kiln: FP8 GEMM kernels for NVIDIA Hopper, compiled at run time\n\n"
      "Usage: kiln COMMAND [FLAGS]\n\nCommands:\n";
  for (const Subcommand& command : kSubcommands)
    out += fmt::format("  {:<9} {}\n", command.name, command.summary);
  out +=
      "\n\"kiln COMMAND --help\" says the rest. Where output is data, --json prints it as "
      "JSON.\n\nEnvironment:\n";
  out += environment_text();
  out +=
      "\nExit codes: 0 success, 1 failure, 2 usage or bad input, 3 no usable device,\n"
      "4 a kernel is not in the cache and compiling is not allowed.\n";
  return out;
}

int unknown_command(const std::string& word) {
  std::vector<std::string_view> names;
  for (const Subcommand& command : kSubcommands) names.push_back(command.name);
  const std::string_view near = nearest(word, names);
  print_error(fmt::format("kiln: unknown command {}: {}the commands are {}; see kiln --help\n",
                          quote(word), near.empty() ? "" : fmt::format("did you mean {}? ", near),
                          join(names, ", ")));
  return kExitUsage;
}

int dispatch(const std::vector<std::string>& words) {
  if (words.empty()) {
    print_error(top_help());
    return kExitUsage;
  }
  const Words rest = Words(words).subspan(1);
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print(top_help());
    return kExitOk;
  }
  if (words[0] == "--version") return version(rest);
  if (words[0] == kWorkerCommand) return warm_worker(rest);
  for (const Subcommand& command : kSubcommands) {
    if (command.name == words[0]) return command.main(rest);
  }
  return unknown_command(words[0]);
}

int guarded(const std::vector<std::string>& words) {
  const std::string prefix = words.empty() ? "kiln" : "kiln " + words[0];
  try {
    return dispatch(words);
  } catch (const Error& error) {
    print_error(fmt::format("{}: {}\n", prefix, error.what()));
    const ExitCode code = exit_code(error.status());
    if (code == kExitUsage) print_error(fmt::format("See {} --help.\n", prefix));
    return code;
  } catch (const std::bad_alloc&) {
    print_error(fmt::format("{}: out of memory\n", prefix));
  } catch (const std::exception& error) {
    print_error(fmt::format("{}: internal error: {}\n", prefix, error.what()));
  }
  return kExitFailure;
}

}  // namespace
}  // namespace kiln::tools

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  int code = kiln::tools::guarded(words);
  // Output that did not reach its file (a full disk) is a failure, however well the work went.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    kiln::tools::print_error("kiln: writing the output failed: is the disk full?\n");
    if (code == kiln::tools::kExitOk) code = kiln::tools::kExitFailure;
  }
  return code;
}
