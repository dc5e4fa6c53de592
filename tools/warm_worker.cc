// kiln warm-worker: the compiler process of `kiln warm`. Reads requests from its standard input, a
// socket, and writes one answer to each to the same socket, until the other end is closed.
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "tools/args.h"
#include "tools/commands.h"
#include "tools/problem_flags.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {
namespace {

const Command kCommand{
    "warm-worker",
    "compile what \"kiln warm\" asks for (started by it, not by hand)",
    "--arch ARCH --sms N --cache DIR",
    "",
    {{"--arch", "ARCH", "as of kiln warm"},
     {"--sms", "N", "as of kiln warm"},
     {"--cache", "DIR", "as of kiln warm"}},
};

WorkerReply compile(runtime::Engine& engine, std::string_view line) {
  try {
    const jit::AnyKernel spec = decode_request(line);
    const std::uint64_t failed_before = engine.disk_cache().stats().publish_failed;
    const std::uint64_t mismatches_before = engine.verify_mismatches();
    const runtime::Cubin cubin = engine.cubin_for({spec, engine.arch()});
    // The engine goes on without its cache, but here storing is the whole point.
    if (engine.disk_cache().stats().publish_failed != failed_before) {
      return WorkerFailure{
          Status::kInternal,
          "compiled, but it could not be stored: is the disk of the cache directory "
          "full, or the directory gone? (KILN_LOG_LEVEL=warning says more)"};
    }
    if (engine.verify_mismatches() != mismatches_before) {
      return WorkerFailure{Status::kInternal,
                           "the entry in the cache was not what its key compiles to; it was "
                           "replaced (KILN_LOG_LEVEL=warning says more)"};
    }
    return runtime::describe_entry(cubin.entry, cubin.from_disk);
  } catch (const Error& error) {
    return WorkerFailure{error.status(), error.what()};
  } catch (const std::exception& error) {
    return WorkerFailure{Status::kInternal, error.what()};
  }
}

// False when the other end is gone.
bool send_line(std::string line) {
  line += '\n';
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t count = ::send(STDIN_FILENO, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

void serve(runtime::Engine& engine) {
  std::string received;
  char buffer[4096];
  for (;;) {
    const ssize_t count = ::recv(STDIN_FILENO, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == ENOTSOCK) {
      throw Error(Status::kInvalidArgument,
                  "warm-worker is started by kiln warm and not by hand: use kiln warm");
    }
    if (count <= 0) return;
    received.append(buffer, static_cast<std::size_t>(count));
    for (std::size_t newline; (newline = received.find('\n')) != std::string::npos;) {
      if (!send_line(encode_reply(compile(engine, std::string_view(received).substr(0, newline)))))
        return;
      received.erase(0, newline + 1);
    }
  }
}

}  // namespace

int warm_worker(Words words) {
  const Args args(kCommand, words);
  if (args.wants_help()) {
    print(help_text(kCommand));
    return kExitOk;
  }
  // A compile can hang, so waiting for the socket to close is not enough to end with the parent.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const Target target = read_target(args);
  const std::string directory = args.required_text("--cache");
  kiln_engine_options options = offline_options(target.arch, target.num_sms);
  options.cache_dir = directory.c_str();
  options.tuned_path = "off";  // the tiles come with the requests
  const EngineHandle engine(options);
  serve(engine.engine());
  return kExitOk;
}

}  // namespace kiln::tools
