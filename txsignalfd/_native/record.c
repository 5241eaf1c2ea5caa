/*
 * The class Record, which holds a record of signalfd(2), and from which SigInfo
 * inherits.  purerecord.py is the same in Python.
 *
 * This is an extension module of its own, without cffi: a member descriptor reads a
 * field several times as fast as a property that calls cffi or struct.  It uses only
 * the stable ABI of Python 3.10, and has no state, so that each interpreter of the
 * process has a class of its own.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <unistd.h>

#include "record.h"

_Static_assert(sizeof(unsigned int) == sizeof(uint32_t), "T_UINT");
_Static_assert(sizeof(unsigned short) == sizeof(uint16_t), "T_USHORT");
_Static_assert(sizeof(unsigned long long) == sizeof(uint64_t), "T_ULONGLONG");

struct record {
    PyObject_HEAD
    struct txs_siginfo info;
    PyObject *signo;    /* for each signal dispatched; a slot is the fastest to read */
};

#define INFO(self) (&((struct record *)(self))->info)
#define SIGNO(self) (((struct record *)(self))->signo)
#define SIZE ((Py_ssize_t)sizeof(struct txs_siginfo))

/* A field by the man page's name, without and with its prefix. */
#define FIELD(name, field, type) \
    {name, type, offsetof(struct record, info.field), READONLY, NULL}, \
    {"ssi_" name, type, offsetof(struct record, info.field), READONLY, NULL}

static PyMemberDef record_members[] = {
    {"signo", T_OBJECT_EX, offsetof(struct record, signo), READONLY, NULL},
    {"ssi_signo", T_OBJECT_EX, offsetof(struct record, signo), READONLY, NULL},
    FIELD("errno", errno_, T_INT),
    FIELD("code", code, T_INT),
    FIELD("pid", pid, T_UINT),
    FIELD("uid", uid, T_UINT),
    FIELD("fd", fd, T_INT),
    FIELD("tid", tid, T_UINT),
    FIELD("band", band, T_UINT),
    FIELD("overrun", overrun, T_UINT),
    FIELD("trapno", trapno, T_UINT),
    FIELD("status", status, T_INT),
    FIELD("int", int_, T_INT),
    FIELD("ptr", ptr, T_ULONGLONG),
    FIELD("utime", utime, T_ULONGLONG),
    FIELD("stime", stime, T_ULONGLONG),
    FIELD("addr", addr, T_ULONGLONG),
    FIELD("addr_lsb", addr_lsb, T_USHORT),
    FIELD("syscall", syscall, T_INT),
    FIELD("call_addr", call_addr, T_ULONGLONG),
    FIELD("arch", arch, T_UINT),
    {NULL, 0, 0, 0, NULL}
};

/* An instance of the type, or of the class that inherits from it. */
static PyObject *record_from(PyTypeObject *type, const char *bytes)
{
    PyObject *self = PyType_GenericAlloc(type, 0);

    if (self == NULL)
        return NULL;
    memcpy(INFO(self), bytes, sizeof(struct txs_siginfo));
    SIGNO(self) = PyLong_FromUnsignedLong(INFO(self)->signo);
    if (SIGNO(self) == NULL)
        Py_CLEAR(self);
    return self;
}

/* That many bytes of whole records, as a list. */
static PyObject *records_from(PyTypeObject *type, const char *bytes, Py_ssize_t size)
{
    PyObject *list;

    if (size % SIZE != 0)
        return PyErr_Format(PyExc_ValueError,
                            "expected whole records of %zd bytes, got %zd bytes", SIZE,
                            size);
    list = PyList_New(size / SIZE);
    for (Py_ssize_t at = 0; list != NULL && at < size; at += SIZE) {
        PyObject *self = record_from(type, bytes + at);

        if (self == NULL)
            Py_CLEAR(list);
        else
            PyList_SetItem(list, at / SIZE, self);
    }
    return list;
}

/* The bytes of any object with a buffer; Py_buffer is not in the ABI of 3.10. */
static PyObject *bytes_of(PyObject *buffer)
{
    PyObject *view, *bytes;

    if (PyBytes_Check(buffer)) {
        Py_INCREF(buffer);
        return buffer;
    }
    view = PyMemoryView_FromObject(buffer);
    if (view == NULL)
        return NULL;
    bytes = PyBytes_FromObject(view);
    Py_DECREF(view);
    return bytes;
}

static PyObject *record_parse(PyObject *type, PyObject *buffer)
{
    PyObject *list, *bytes = bytes_of(buffer);

    if (bytes == NULL)
        return NULL;
    list = records_from((PyTypeObject *)type, PyBytes_AsString(bytes),
                        PyBytes_Size(bytes));
    Py_DECREF(bytes);
    return list;
}

/* read(2) and parse, without a bytes object in between. */
static PyObject *record_read(PyObject *type, PyObject *number)
{
    struct txs_siginfo infos[TXS_RECORDS_PER_READ];
    ssize_t size;
    int fd;

    if (!PyArg_Parse(number, "i", &fd))
        return NULL;
    do {
        Py_BEGIN_ALLOW_THREADS
        size = read(fd, infos, sizeof infos);
        Py_END_ALLOW_THREADS
        if (size == -1 && (errno != EINTR || PyErr_CheckSignals() == -1))
            return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    } while (size == -1);
    return records_from((PyTypeObject *)type, (const char *)infos, size);
}

static PyObject *record_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *buffer, *bytes, *self = NULL;

    if (kwargs != NULL && PyDict_Size(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "a record takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O:SigInfo", &buffer) || (bytes = bytes_of(buffer)) == NULL)
        return NULL;
    if (PyBytes_Size(bytes) != SIZE)
        PyErr_Format(PyExc_ValueError, "expected a record of %zd bytes, got %zd bytes",
                     SIZE, PyBytes_Size(bytes));
    else
        self = record_from(type, PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    return self;
}

static PyObject *record_bytes(PyObject *self)
{
    return PyBytes_FromStringAndSize((const char *)INFO(self), SIZE);
}

static PyObject *record_reduce(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return Py_BuildValue("O(N)", (PyObject *)Py_TYPE(self), record_bytes(self));
}

static Py_hash_t record_hash(PyObject *self)
{
    PyObject *bytes = record_bytes(self);
    Py_hash_t hash;

    if (bytes == NULL)
        return -1;
    hash = PyObject_Hash(bytes);
    Py_DECREF(bytes);
    return hash;
}

static PyObject *record_compare(PyObject *self, PyObject *other, int op)
{
    int equal;
    PyObject *result = Py_NotImplemented;

    /* Only records and what inherits from them compare by this function. */
    if ((op == Py_EQ || op == Py_NE)
        && PyType_GetSlot(Py_TYPE(other), Py_tp_richcompare) == (void *)record_compare) {
        equal = memcmp(INFO(self), INFO(other), sizeof(struct txs_siginfo)) == 0;
        result = equal == (op == Py_EQ) ? Py_True : Py_False;
    }
    Py_INCREF(result);
    return result;
}

static void record_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    Py_XDECREF(SIGNO(self));
    release(self);
    Py_DECREF(type);
}

static PyObject *record_value(PyObject *self, void *ignored)
{
    (void)ignored;
    if (INFO(self)->code == SI_QUEUE)
        return PyLong_FromLong(INFO(self)->int_);
    Py_INCREF(Py_None);
    return Py_None;
}

static PyGetSetDef record_getset[] = {
    {"value", record_value, NULL,
     "The int that sigqueue(3) sent, or None for any other signal.", NULL},
    {NULL, NULL, NULL, NULL, NULL}
};

static PyMethodDef record_methods[] = {
    {"_parse", record_parse, METH_O | METH_CLASS, NULL},
    {"_read", record_read, METH_O | METH_CLASS, NULL},
    {"__reduce__", record_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc, "A record of signalfd(2)."},
    {Py_tp_members, record_members},
    {Py_tp_getset, record_getset},
    {Py_tp_methods, record_methods},
    {Py_tp_new, (void *)record_new},
    {Py_tp_dealloc, (void *)record_dealloc},
    {Py_tp_hash, (void *)record_hash},
    {Py_tp_richcompare, (void *)record_compare},
    {0, NULL}
};

static PyType_Spec record_spec = {
    .name = "txsignalfd._native.record.Record",
    .basicsize = sizeof(struct record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = record_slots,
};

static int record_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&record_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Record", type) == -1;

    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)record_exec},
    {0, NULL}
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "record",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit_record(void)
{
    return PyModuleDef_Init(&module);
}
