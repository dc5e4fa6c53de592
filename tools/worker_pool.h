// Worker processes that answer one-line requests with one-line replies, over a socket that is the
// worker's standard input.
//
// Compilers crash and hang, and neither can be undone inside a process. Here each costs the request
// that met it: the worker is ended, the request fails with the reason, and the next request gets a
// fresh worker. Workers are started by posix_spawn, never by a bare fork (the parent has libraries
// loaded that do not survive one), and die with their parent.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace kiln::tools {

struct WorkerOutcome {
  bool answered = false;
  std::string reply;    // one line without its '\n', when answered
  std::string failure;  // otherwise: why, e.g. "the compiler process was ended by signal 11"
};

class WorkerPool {
 public:
  // `executable` is run with `command` as its argv. At most `workers` at once.
  WorkerPool(std::string executable, std::vector<std::string> command, int workers,
             std::chrono::milliseconds timeout);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Hands out the requests in order (lines without '\n') and calls `done` on this thread as each
  // ends, in order of ending, with its index. `done` returns false to stop: requests not yet ended
  // are dropped. `idle` is called at least every 200 ms, for a progress bar.
  void run(const std::vector<std::string>& requests,
           const std::function<bool(std::size_t, const WorkerOutcome&)>& done,
           const std::function<void()>& idle);

 private:
  struct Worker;

  WorkerOutcome start(Worker& worker) const;
  bool assign(Worker& worker, std::size_t index, const std::string& request,
              WorkerOutcome& failed) const;
  bool receive(Worker& worker, WorkerOutcome& outcome) const;
  bool expired(Worker& worker, WorkerOutcome& outcome) const;
  void wait_for_news(int timeout_ms) const;

  std::string executable_;
  std::vector<std::string> command_;
  std::chrono::milliseconds timeout_;
  std::vector<Worker> workers_;
};

}  // namespace kiln::tools
