"""Peers in bad weather: what they send and receive is reordered and lost, and all of it known."""

import collections
import random

from peer import (BULK, CRITICAL, NORMAL, PING, PONG, REQUEST, RESPONSE, SEND, Message, Peer,
                  Refused)

REORDER = 8  # datagrams that may overtake each other on their way to the relay


class Storm:
    """Numbers messages and follows them: each arrives once, or was lost in a known way."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.loss = 0
        self.sent = 0
        self.expected = {}                   # number to the receiver's id
        self.lost = set()                    # numbers that the weather took
        self.got = collections.Counter()
        self.strayed = []                    # what arrived at somebody else
        self.errors = collections.Counter()  # reason of error to count
        # counted to compare with the relay's ledgers
        self.records_in = self.messages_in = self.messages_out = 0

    def message(self, to):
        number, self.sent = self.sent, self.sent + 1
        self.expected[number] = to
        kind = self.random.choice((SEND, SEND, REQUEST, RESPONSE))
        payload = number.to_bytes(8, "big") + bytes(self.random.randrange(200))
        return Message(kind, to, payload, tag=number & 0xffffffff)

    def strikes(self):
        return self.random.random() < self.loss

    def underway(self):
        return len(self.expected) - len(self.lost) - len(self.got)

    def missing(self):
        return self.expected.keys() - self.lost - self.got.keys()

    def assert_exact(self):
        assert self.missing() == set()
        twice = [number for number, count in self.got.items() if count > 1]
        assert twice == []
        assert self.strayed == []
        assert self.got.keys() & self.lost == set()


class StormyPeer(Peer):
    def __init__(self, storm, *arguments, **options):
        super().__init__(*arguments, **options)
        self.storm = storm
        self.held = []
        self.contents = {}  # of sealed records: their messages
        self.struck = False

    def seal(self, messages, lane=0, klass=NORMAL):
        record = super().seal(messages, lane, klass)
        self.contents[record] = messages
        return record

    def put(self, datagram, sock):
        if self.storm.strikes():
            numbers = {number_of(message) for message in self.contents[datagram]}
            self.storm.lost |= numbers - {None}
            return
        self.held.append((datagram, sock))
        if len(self.held) >= REORDER:
            self.calm()

    def calm(self):
        """Sends what is held back, in disorder."""
        self.storm.random.shuffle(self.held)
        for datagram, sock in self.held:
            self.storm.records_in += 1
            self.storm.messages_in += len(self.contents.get(datagram, ()))
            super().put(datagram, sock)
        self.held.clear()

    def poll(self, timeout=0.0):
        self.calm()
        return super().poll(timeout)

    def datagram(self, datagram, sock):
        # what is lost on the way down is opened all the same, to know what it was
        self.struck = self.storm.strikes()
        super().datagram(datagram, sock)

    def _handle(self, message, sock):
        self.storm.messages_out += 1
        number = number_of(message)
        if self.struck:
            self.storm.lost |= {number} - {None}
        elif number is None:
            super()._handle(message, sock)
        else:
            self.storm.got[number] += 1
            if self.storm.expected[number] != self.identity.id:
                self.storm.strayed.append(number)

    def take_errors(self):
        for message in self.inbox:
            if message.reason:
                self.storm.errors[message.reason] += 1
        self.inbox = [message for message in self.inbox if not message.reason]

    def quiesce(self):
        """Until the relay has seen to all that was sent on every lane."""
        for lane in range(self.lanes):
            while True:
                tag = self.send(self.relay, kind=PING, lane=lane)
                try:
                    self.wait(lambda message: message.kind == PONG and message.tag == tag, 0.3)
                    break
                except TimeoutError:  # lost
                    pass

    def chatter(self, to):
        """A record with a few messages to some of these ids, on any lane, of any class."""
        choose = self.storm.random
        messages = [self.storm.message(choose.choice(to)) for _ in range(choose.randrange(1, 4))]
        self.send_messages(messages, choose.randrange(self.lanes),
                           choose.choice((BULK, NORMAL, CRITICAL)))

    def try_rekey(self):
        try:
            self.rekey()
            return True
        except Refused as refused:
            assert refused.answer["error"] == "rekey"  # the last one is under way for 5 s
            return False


def number_of(message):
    if message.kind in (SEND, REQUEST, RESPONSE) and len(message.payload) >= 8:
        return int.from_bytes(message.payload[:8], "big")
    return None
