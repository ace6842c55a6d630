"""An SMTP server that lets in who has the password, by GNU SASL and OpenSSL.

Arguments: address, port, certificate, key, name, password, newest version of TLS, mechanisms, and what an exchange is bound to:
"session" to the TLS session, "other" to another one, "nothing" where the server cannot bind.
"""

import base64
import ctypes
import socket
import sys
import threading

from OpenSSL import SSL

AUTHID, PASSWORD, CB_TLS_EXPORTER = 1, 3, 25
OK, NEEDS_MORE, AUTHENTICATION_ERROR, NO_CALLBACK = 0, 1, 31, 51

address, port, certificate, key, user, password, version, mechanisms, bound = sys.argv[1:]

gsasl = ctypes.CDLL("libgsasl.so.18")
gsasl.gsasl_property_fast.restype = ctypes.c_char_p
gsasl.gsasl_property_fast.argtypes = [ctypes.c_void_p, ctypes.c_int]
gsasl.gsasl_property_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
gsasl.gsasl_server_start.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
gsasl.gsasl_step64.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
gsasl.gsasl_finish.argtypes = [ctypes.c_void_p]
gsasl.gsasl_free.argtypes = [ctypes.c_void_p]
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Session:
    def __init__(self, plain):
        self.stream, self.tls, self.rest = plain, None, b""

    def line(self):
        while b"\r\n" not in self.rest:
            more = self.stream.recv(4096)
            if not more:
                raise EOFError
            self.rest += more
        line, self.rest = self.rest.split(b"\r\n", 1)
        return line.decode()

    def say(self, *lines):
        last = len(lines) - 1
        for number, line in enumerate(lines):
            text = line[:3] + (" " if number == last else "-") + line[4:]
            self.stream.sendall(text.encode() + b"\r\n")

    def start_tls(self):
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION if version == "1.2" else SSL.TLS1_3_VERSION)
        context.use_certificate_chain_file(certificate)
        context.use_privatekey_file(key)
        self.stream = self.tls = SSL.Connection(context, self.stream)
        self.tls.set_accept_state()
        self.tls.do_handshake()

    def binding(self):
        if bound == "nothing":
            return None
        # RFC 9266: no context, which in TLS 1.3 is the same as an empty one.
        octets = self.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        return octets if bound == "session" else bytes(32)

    def authenticate(self, mechanism, word):
        def ask(_context, session, what):
            if what == PASSWORD and gsasl.gsasl_property_fast(session, AUTHID) == user.encode():
                gsasl.gsasl_property_set(session, PASSWORD, password.encode())
                return OK
            if what == CB_TLS_EXPORTER and self.binding() is not None:
                gsasl.gsasl_property_set(session, what, base64.b64encode(self.binding()))
                return OK
            return NO_CALLBACK

        callback, context, session = CALLBACK(ask), ctypes.c_void_p(), ctypes.c_void_p()
        assert gsasl.gsasl_init(ctypes.byref(context)) == OK
        gsasl.gsasl_callback_set(context, callback)
        started = gsasl.gsasl_server_start(context, mechanism.encode(), ctypes.byref(session))
        assert started == OK, started
        first = base64.b64decode(word).split(b",")[0].decode()
        print(f"{mechanism} begins with {first}", flush=True)
        while True:
            answer = ctypes.c_char_p()
            code = gsasl.gsasl_step64(session, word.encode(), ctypes.byref(answer))
            text = (answer.value or b"").decode()
            if code not in (OK, NEEDS_MORE):
                print(f"{mechanism} ends with error {code}", flush=True)
                self.say("535 5.7.8 authentication failed")
                return
            if code == NEEDS_MORE or text:
                self.say("334 " + text)
                word = self.line()
            if code == OK:
                print(f"{mechanism} ends well", flush=True)
                self.say("235 2.7.0 welcome")
                return

    def run(self):
        self.say("220 hub.test ESMTP")
        while True:
            verb, *words = self.line().split(" ")
            if verb == "EHLO" and self.tls is None:
                self.say("250 hub.test", "250 STARTTLS")
            elif verb == "EHLO":
                self.say("250 hub.test", "250 AUTH " + mechanisms)
            elif verb == "STARTTLS":
                self.say("220 go ahead")
                self.start_tls()
            elif verb == "AUTH":
                self.authenticate(*words)
            elif verb == "DATA":
                self.say("354 go ahead")
                while self.line() != ".":
                    pass
                self.say("250 2.0.0 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 2.0.0 ok")


def serve(plain):
    try:
        Session(plain).run()
    except (EOFError, OSError, SSL.Error):
        # A client that goes away is no concern of ours.
        pass


gsasl.gsasl_callback_set.argtypes = [ctypes.c_void_p, CALLBACK]
listener = socket.create_server((address, int(port)))
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
