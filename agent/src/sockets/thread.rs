//! The one OS thread that enters network namespaces, and comes back.
//!
//! In: closures. Out: their results. A namespace is a property of a thread: were a tokio worker to
//! enter one and fail to return, every task it runs later would look at the wrong node. So there is
//! one thread, it is nobody's worker, and where it cannot return it ends the process.

use std::{
    any::Any,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::{self, ThreadId},
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::error::{Error, Result};

type Job = Box<dyn FnOnce(&Visitor) + Send>;

/// The handle to the thread, which ends when the last handle is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    jobs: mpsc::Sender<Job>,
    id: ThreadId,
    /// The namespace in which the thread started: the node's, for an agent with hostNetwork.
    pub(super) home: Arc<File>,
}

/// What a job on the thread is given: the right to enter namespaces.
#[derive(Debug)]
pub(super) struct Visitor {
    home: Arc<File>,
}

impl Thread {
    /// Starts the thread in the namespace of the caller.
    pub(super) fn start() -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("namespaces".into())
            .spawn(move || {
                let home = match File::open("/proc/thread-self/ns/net") {
                    Ok(home) => Arc::new(home),
                    Err(e) => return drop(ready.send(Err(e))),
                };
                drop(ready.send(Ok(Arc::clone(&home))));
                let visitor = Visitor { home };
                for job in queue {
                    // A job that panics drops its reply, which the asker sees as `NoAnswer`.
                    drop(catch_unwind(AssertUnwindSafe(|| job(&visitor))));
                }
            })
            .map_err(Error::Start)?;
        let id = thread.thread().id();
        let home = started.recv().map_err(|e| Error::Start(io::Error::other(e)))?.map_err(Error::Start)?;
        Ok(Self { jobs, id, home })
    }

    /// Runs `job` on the thread, in the thread's own namespace.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Visitor) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(move |visitor| drop(reply.send(job(visitor)))))?;
        answer.await.map_err(|_| Error::NoAnswer)?
    }

    /// The same for a caller that may block.
    ///
    /// `namespace` names the one to be entered in the error of a caller that is the thread itself.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        namespace: &str,
        job: impl FnOnce(&Visitor) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if thread::current().id() == self.id {
            return Err(Error::Reentered { namespace: namespace.into() });
        }
        let (reply, answer) = mpsc::channel();
        self.send(Box::new(move |visitor| drop(reply.send(job(visitor)))))?;
        answer.recv().map_err(|_| Error::NoAnswer)?
    }

    fn send(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| Error::NoAnswer)
    }
}

impl Visitor {
    /// Runs `f` inside `namespace` and returns to the thread's own, whatever `f` does.
    ///
    /// Threads that `f` starts stay inside; it should start none.
    pub(super) fn visit<T>(&self, namespace: &File, name: &str, f: impl FnOnce() -> T) -> Result<T> {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::Enter { namespace: name.into(), source: e.into() })?;
        let result = catch_unwind(AssertUnwindSafe(f));
        if let Err(e) = setns(&*self.home, CloneFlags::CLONE_NEWNET) {
            // Whatever this thread did from here on, it would do in a tenant's namespace. Standard
            // error, because the subscriber may be another thread's business.
            eprintln!("lastcall: cannot return from network namespace {name}: {e}; aborting");
            std::process::abort();
        }
        result.map_err(|panic| Error::Panicked { namespace: name.into(), message: message(panic.as_ref()) })
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).into()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".into()
    }
}
