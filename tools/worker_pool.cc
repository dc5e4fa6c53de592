#include "tools/worker_pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>

extern char** environ;

namespace kiln::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxReplyBytes = std::size_t{1} << 20;  // a compile log is at most 64 KiB
constexpr int kPollMs = 200;

// A new process whose standard input is `socket`, and whose standard output is our standard error:
// what a library prints must not get between the lines of the table. Returns 0 or an errno.
int spawn(const std::string& executable, const std::vector<std::string>& command, int socket,
          pid_t& pid) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  int error = posix_spawn_file_actions_init(&actions);
  if (error != 0) return error;
  error = posix_spawn_file_actions_adddup2(&actions, socket, STDIN_FILENO);
  if (error == 0) error = posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  if (error == 0)
    error = posix_spawn(&pid, executable.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

// Waits for a process whose end of the socket is closed. That nearly always means that it is dead;
// one that lives on must not hold us up.
int reap(pid_t pid) {
  constexpr int kPatienceMs = 2000;
  int status = 0;
  for (int waited_ms = 0; waited_ms < kPatienceMs; ++waited_ms) {
    if (::waitpid(pid, &status, WNOHANG) == pid) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::string death_text(int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("the compiler process was ended by signal {} ({})", WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
  }
  return fmt::format("the compiler process ended by itself with exit code {}", WEXITSTATUS(status));
}

}  // namespace

struct WorkerPool::Worker {
  pid_t pid = -1;
  int socket = -1;
  std::optional<std::size_t> request;  // what it works on
  Clock::time_point deadline;
  std::string received;

  bool alive() const { return socket >= 0; }

  // Ends the process in any case and returns its wait status.
  int end(bool by_force) {
    ::close(socket);
    socket = -1;
    if (by_force) ::kill(pid, SIGKILL);
    const int status = reap(pid);
    pid = -1;
    request.reset();
    received.clear();
    return status;
  }
};

WorkerPool::WorkerPool(std::string executable, std::vector<std::string> command, int workers,
                       std::chrono::milliseconds timeout)
    : executable_(std::move(executable)),
      command_(std::move(command)),
      timeout_(timeout),
      workers_(static_cast<std::size_t>(workers)) {}

WorkerPool::~WorkerPool() {
  // One that is still busy may be hung; one that is idle has nothing to lose either.
  for (Worker& worker : workers_) {
    if (worker.alive()) worker.end(true);
  }
}

WorkerOutcome WorkerPool::start(Worker& worker) const {
  const auto failed = [](const char* call, int error) {
    return WorkerOutcome{
        false, "",
        fmt::format("no compiler process could be started: {}: {}", call, strerror(error))};
  };
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return failed("socketpair", errno);
  const int error = spawn(executable_, command_, pair[1], worker.pid);
  ::close(pair[1]);
  if (error != 0) {
    ::close(pair[0]);
    return failed("posix_spawn", error);
  }
  worker.socket = pair[0];
  return {};
}

// False with the reason in `failed` when no process takes the request.
bool WorkerPool::assign(Worker& worker, std::size_t index, const std::string& request,
                        WorkerOutcome& failed) const {
  const std::string line = request + '\n';
  // A request is far smaller than the socket's buffer, so this never waits. MSG_NOSIGNAL: a worker
  // that has just died must not take this process with it.
  const auto send = [&] {
    return ::send(worker.socket, line.data(), line.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(line.size());
  };
  // One that died while idle is not the fault of this request, which gets a fresh one.
  const bool was_alive = worker.alive();
  if (was_alive && !send()) worker.end(true);
  if (!worker.alive()) {
    failed = start(worker);
    if (!worker.alive()) return false;
    if (!send()) {
      failed = {false, "", death_text(worker.end(true))};
      return false;
    }
  }
  worker.request = index;
  worker.deadline = Clock::now() + timeout_;
  return true;
}

// True when the worker's request has ended: a whole line came, or the process died.
bool WorkerPool::receive(Worker& worker, WorkerOutcome& outcome) const {
  char buffer[16 << 10];
  const ssize_t count = ::recv(worker.socket, buffer, sizeof buffer, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (count <= 0) {
    outcome = {false, "", death_text(worker.end(false))};
    return true;
  }
  worker.received.append(buffer, static_cast<std::size_t>(count));
  const std::size_t newline = worker.received.find('\n');
  if (newline != std::string::npos) {
    outcome = {true, worker.received.substr(0, newline), ""};
    worker.received.clear();
    worker.request.reset();
    return true;
  }
  if (worker.received.size() <= kMaxReplyBytes) return false;
  worker.end(true);
  outcome = {false, "",
             fmt::format("the compiler process answered with more than {} bytes", kMaxReplyBytes)};
  return true;
}

bool WorkerPool::expired(Worker& worker, WorkerOutcome& outcome) const {
  if (Clock::now() < worker.deadline) return false;
  worker.end(true);
  outcome = {false, "",
             fmt::format("the compiler did not finish within {} s and was ended (--timeout)",
                         std::chrono::duration<double>(timeout_).count())};
  return true;
}

void WorkerPool::wait_for_news(int timeout_ms) const {
  std::vector<pollfd> sockets;
  for (const Worker& worker : workers_) {
    if (worker.request) sockets.push_back({worker.socket, POLLIN, 0});
  }
  ::poll(sockets.data(), sockets.size(), timeout_ms);  // an early return (EINTR) only costs a round
}

void WorkerPool::run(const std::vector<std::string>& requests,
                     const std::function<bool(std::size_t, const WorkerOutcome&)>& done,
                     const std::function<void()>& idle) {
  std::size_t next = 0;
  std::size_t open = requests.size();
  while (open > 0) {
    // 1. Work for everyone who has none.
    for (Worker& worker : workers_) {
      while (!worker.request && next < requests.size()) {
        const std::size_t index = next++;
        WorkerOutcome failed;
        if (assign(worker, index, requests[index], failed)) break;
        --open;
        if (!done(index, failed)) return;
      }
    }
    // 2. Until something happens.
    if (open > 0) wait_for_news(kPollMs);
    idle();
    // 3. What has ended?
    for (Worker& worker : workers_) {
      if (!worker.request) continue;
      const std::size_t index = *worker.request;
      WorkerOutcome outcome;
      if (!receive(worker, outcome) && !expired(worker, outcome)) continue;
      --open;
      if (!done(index, outcome)) return;
    }
  }
}

}  // namespace kiln::tools
