/*
 * The actions that our handler replaces, and what is done with them.
 *
 * A signal has two of them.  "restored" is installed again when the signal is
 * released.  "before" is performed when the handler is called for a signal that
 * is not watched.  This happens because other code may have found our handler
 * installed, have installed its own, and may call ours for ever:
 * faulthandler.register(chain=True) does, and so do some C libraries.
 *
 * An action that other code installed over ours is restored, but never performed:
 * if it calls ours, it would be called again without end.  After one was seen,
 * every other function that is found when the signal is acquired is suspected, but
 * not the one that Python installs for all its handlers, which calls no other.
 */

#include "native.h"

struct txs_actions {
    struct sigaction before;
    struct sigaction restored;
    int suspect;        /* other code may call our handler */
};

/*
 * The handler reads the actions while another thread may replace them: the writer
 * fills the element that is not in use, and then counts the version up.
 */
static struct txs_actions txs_saved_actions[TXS_NSIG][2];
static atomic_uint txs_versions[TXS_NSIG];

static struct txs_actions txs_saved(int signo)
{
    struct txs_actions saved;
    unsigned version;

    do {
        version = atomic_load(&txs_versions[signo]);
        saved = txs_saved_actions[signo][version % 2];
    } while (atomic_load(&txs_versions[signo]) != version);
    return saved;
}

/* With the lock. */
static void txs_save(int signo, const struct txs_actions *actions)
{
    unsigned version = atomic_load(&txs_versions[signo]) + 1;

    txs_saved_actions[signo][version % 2] = *actions;
    atomic_store(&txs_versions[signo], version);
}

/* Python's function, as it is installed for SIGINT while we are imported; or NULL. */
static void (*txs_python_handler)(int);

__attribute__((constructor)) static void txs_find_python_handler(void)
{
    struct sigaction action;

    if (sigaction(SIGINT, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO)
        && action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN)
        txs_python_handler = action.sa_handler;
}

/* --- the lock ----------------------------------------------------------- */

/*
 * Only one thread changes actions, and none while another one forks: a child has
 * actions that belong together.  Never held by the handler.
 */
static pthread_mutex_t txs_actions_lock = PTHREAD_MUTEX_INITIALIZER;
static sigset_t txs_unlocked_mask;      /* of the thread that has the lock */

/* All signals are blocked: a handler of other code might fork. */
static void txs_lock_actions(void)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_mutex_lock(&txs_actions_lock);
    txs_unlocked_mask = before;
}

static void txs_unlock_actions(void)
{
    sigset_t before = txs_unlocked_mask;

    pthread_mutex_unlock(&txs_actions_lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* --- install and restore ------------------------------------------------ */

/* Other code may have installed our handler again, without SA_SIGINFO. */
static int txs_is_ours(const struct sigaction *action)
{
    if (action->sa_flags & SA_SIGINFO)
        return action->sa_sigaction == txs_handler;
    return action->sa_handler == (void (*)(int))(void (*)(void))txs_handler;
}

/* Whether our handler is installed for a signal as we install it. */
static int txs_is_installed(int signo)
{
    struct sigaction current;

    return sigaction(signo, NULL, &current) == 0 && txs_is_ours(&current)
           && (current.sa_flags & SA_SIGINFO);
}

static int txs_is_function(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO)
           || (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

/* Whether other code has installed the action, and may call our handler from it. */
static int txs_is_suspect(const struct txs_actions *saved,
                          const struct sigaction *action)
{
    return txs_is_function(action) && action->sa_handler != txs_python_handler
           && !(txs_is_function(&saved->before)
                && action->sa_handler == saved->before.sa_handler);
}

/*
 * Install the handler with the flags that concern children, as they were.  The
 * action that it replaces is returned by the same call, so that none is missed.
 */
static int txs_replace(int signo, struct sigaction *old)
{
    const int children = SA_NOCLDSTOP | SA_NOCLDWAIT;
    struct sigaction ours;

    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = txs_handler;
    ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigfillset(&ours.sa_mask);
    if (signo == SIGCHLD && sigaction(signo, NULL, old) == 0)
        ours.sa_flags |= old->sa_flags & children;
    return sigaction(signo, &ours, old);
}

/*
 * Install the handler again for a signal that is watched.  1 if it was replaced,
 * 0 if not; or -1 and errno.
 */
static int txs_install(int signo)
{
    struct txs_actions saved;
    struct sigaction old;
    int result;

    txs_lock_actions();
    result = txs_replace(signo, &old);
    if (result == 0 && !txs_is_ours(&old)) {
        saved = txs_saved(signo);
        saved.suspect |= txs_is_suspect(&saved, &old);
        saved.restored = old;
        txs_save(signo, &saved);
        result = 1;
    }
    txs_unlock_actions();
    return result;
}

/* Install the handler for a signal that was not watched.  0, or -1 and errno. */
static int txs_install_first(int signo)
{
    struct txs_actions saved;
    struct sigaction old;
    int result;

    txs_lock_actions();
    saved = txs_saved(signo);
    result = sigaction(signo, NULL, &old);
    /* Before it is installed: it may run in another thread at once. */
    while (result == 0) {
        if (txs_is_ours(&old))          /* other code has restored it */
            saved.restored = saved.before;
        else {
            if (!saved.suspect || !txs_is_suspect(&saved, &old))
                saved.before = old;
            saved.restored = old;
        }
        txs_save(signo, &saved);
        if (txs_is_ours(&old))
            break;
        result = txs_replace(signo, &old);
        if (result == 0 && old.sa_handler == saved.restored.sa_handler)
            break;
    }
    txs_unlock_actions();
    return result;
}

/* Restore the action, unless other code has replaced our handler. */
static int txs_restore_action(int signo)
{
    struct txs_actions saved = txs_saved(signo);
    struct sigaction current;

    if (sigaction(signo, &saved.restored, &current) == -1)
        return -1;
    if (txs_is_ours(&current))
        return 0;
    saved.suspect |= txs_is_suspect(&saved, &current);
    txs_save(signo, &saved);
    return sigaction(signo, &current, NULL);
}

/* --- perform ------------------------------------------------------------ */

/* For the handler: let a signal have its default action. */
static void txs_perform_default(int signo)
{
    struct sigaction current, fallback;
    sigset_t only, before;

    memset(&fallback, 0, sizeof fallback);
    fallback.sa_handler = SIG_DFL;
    sigemptyset(&fallback.sa_mask);
    sigemptyset(&only);
    sigaddset(&only, signo);
    sigaction(signo, &fallback, &current);
    pthread_sigmask(SIG_BLOCK, &only, &before);
    raise(signo);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    /* It is ignored by default, or has stopped the process for a while. */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sigaction(signo, &current, NULL);
}

/* For the handler: do what the process did before the signal was watched. */
static void txs_perform(int signo, siginfo_t *info, void *context)
{
    struct sigaction action = txs_saved(signo).before;

    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(signo, info, context);
    else if (action.sa_handler == SIG_DFL)
        txs_perform_default(signo);
    else if (action.sa_handler != SIG_IGN)
        action.sa_handler(signo);
}
