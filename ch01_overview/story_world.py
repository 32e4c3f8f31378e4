"""The story world: the words and sentences from which the book's corpus is told.

A text is told to a *narrator*, which knows two things only: `say` puts a fixed piece of text, and
`pick` chooses one of several pieces, each as likely as the others. `corpus.py` has two narrators.
One throws dice and writes; the other reads a finished text and finds out which choices were made.
Both run the very functions below, so what can be written can be read.

One rule makes the reading unique: **in one pick, no piece is the beginning of another**. Then the
text itself settles every choice, and a text has exactly one derivation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Character", "Facts", "Narrator", "tell"]

# Kinds, traits, things and looks stand with the article that English wants before them.
SHE = (
    "Ada",
    "Bella",
    "Clara",
    "Daisy",
    "Elsa",
    "Flora",
    "Greta",
    "Hanna",
    "Ivy",
    "Lily",
    "Mia",
    "Nora",
)
HE = ("Ben", "Carl", "Finn", "Hugo", "Jack", "Leo", "Max", "Otto", "Paul", "Sam", "Theo", "Victor")
NAMES = SHE + HE
KINDS = (
    *("badger", "bear", "beaver", "deer", "donkey", "duck", "fox", "frog", "goat", "goose"),
    *("hare", "hedgehog", "mole", "mouse", "otter", "owl", "rabbit", "squirrel", "swan", "turtle"),
)
TRAITS = (
    *(
        "a brave",
        "a cheerful",
        "a clever",
        "a curious",
        "a gentle",
        "a kind",
        "a merry",
        "a patient",
    ),
    *("a polite", "a quiet", "a shy", "a silly", "a sleepy", "a tidy", "an eager", "an honest"),
)
HOMES = (
    *("in a hollow tree", "in a cosy burrow", "in a cottage with a blue door", "on a little boat"),
    *(
        "under the roots of an oak",
        "behind the bakery",
        "beside a quiet pond",
        "in a tower of stone",
    ),
    *("in a nest of straw", "under an old cart", "above the toy shop", "between two tall rocks"),
    *("next to a windmill", "at the edge of the wood", "among the reeds", "inside a giant pumpkin"),
)
LOVES = (
    *("baking bread", "climbing trees", "counting stars", "dancing in the rain", "flying kites"),
    *("making soup", "painting flowers", "planting seeds", "reading books", "singing songs"),
    *("taking naps", "telling jokes", "drinking cocoa", "jumping over puddles", "knitting socks"),
    *("watching the clouds",),
)
PLACES = (
    *("at the castle", "at the lighthouse", "at the market", "at the mill", "at the well"),
    *("by the lake", "by the river", "in the forest", "in the garden", "in the meadow"),
    *("in the orchard", "in the valley", "on the beach", "on the bridge", "on the hill"),
    *("on the island",),
)
LOOKS = (
    *("a blue", "a bright", "a fine", "a golden", "a green", "a little", "a lovely", "a pretty"),
    *("a red", "a silver", "a white", "a yellow", "an odd", "an old"),
)
THINGS = (
    *("ball", "basket", "bell", "cup", "drum", "feather", "flute", "hat", "kite", "lantern", "map"),
    *(
        "mirror",
        "necklace",
        "ribbon",
        "ring",
        "scarf",
        "shell",
        "spoon",
        "teapot",
        "umbrella",
        "whistle",
    ),
)
COLOURS = (
    *("a black", "a blue", "a brown", "a golden", "a green", "a grey", "a pink", "a purple"),
    *("a red", "a striped", "a white", "a yellow"),
)
CLOTHES = (
    *("apron", "belt", "bonnet", "cap", "veil", "cloak", "coat", "dress", "jacket", "robe"),
    *("shawl", "shirt"),
)
FOODS = (
    *("buns", "carrots", "cherries", "figs", "mushrooms", "nuts", "onions", "pancakes", "pears"),
    *("plums", "radishes", "turnips"),
)
NUMBERS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


@dataclass(frozen=True)
class Character:
    """Somebody in a story: `Character("Mia", "shy", "owl")`."""

    name: str
    trait: str
    kind: str

    @property
    def article(self) -> str:
        """What English wants before the trait: "a" or "an"."""
        return "an" if f"an {self.trait}" in TRAITS else "a"

    @property
    def she(self) -> str:
        """The pronoun, capital and all: "She" or "He"."""
        return "She" if self.name in SHE else "He"

    @property
    def her(self) -> str:
        """The possessive: "her" or "his"."""
        return "her" if self.name in SHE else "his"


@dataclass(frozen=True)
class Facts:
    """What is true in a text. A field that its form does not have stands at its default.

    `holders` are the names of those who had the thing, in order: the last one has it at the end.
    `places` are where the text plays, in order. `away` has a (name, place) pair for each friend who
    left, and where to.
    """

    form: str  # "tale", "poem" or "dialogue"
    characters: tuple[Character, ...] = ()
    home: str = ""
    loves: str = ""
    thing: str = ""
    holders: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    away: tuple[tuple[str, str], ...] = ()

    @property
    def hero(self) -> Character | None:
        """The first character named."""
        return self.characters[0] if self.characters else None

    @property
    def holder(self) -> str | None:
        """The name of the one who has the thing at the end."""
        return self.holders[-1] if self.holders else None


class Narrator:
    """Writes a text, or reads one: see `corpus.py`."""

    def say(self, text: str) -> None:
        """Put `text` next."""
        raise NotImplementedError

    def pick(self, options: Sequence[str]) -> int:
        """Put one of `options` next, all equally likely, and return its index."""
        raise NotImplementedError


def tell(narrator: Narrator) -> Facts:
    """Tell one text, choosing its form by its first words."""
    openings = (*TALE_OPENINGS, *POEM_OPENINGS, *DIALOGUE_OPENINGS)
    chosen = openings[narrator.pick(openings)]
    if chosen in TALE_OPENINGS:
        return tell_tale(narrator)
    if chosen in POEM_OPENINGS:
        return tell_poem(narrator)
    return tell_dialogue(narrator, chosen)


def word(narrator: Narrator, words: Sequence[str], used: Sequence[str] = ()) -> str:
    """Pick one of `words` that is not among those `used`."""
    free = [w for w in words if w not in used] if used else words
    return free[narrator.pick(free)]


def bare(phrase: str) -> str:
    """The phrase without its first word: "an old" -> "old", "by the river" -> "the river"."""
    return phrase.split(" ", 1)[1]


# ---------------------------------------------------------------- tales

TALE_OPENINGS = (
    "Once upon a time there was ",
    "Long ago there lived ",
    "There once was ",
    "Far away, beyond the hills, lived ",
    "In a land of green fields there lived ",
    "Many years ago there was ",
    "This is the tale of ",
    "Listen to the story of ",
)
FRIENDS = (
    "Next door lived ",
    "Across the stream lived ",
    "Not far away lived ",
    "Up the lane lived ",
)
THIRDS = (" The third of the friends was ", " They often played with ", " They liked to visit ")
MORNINGS = (" One day ", " One fine morning ", " On the first day of spring ")
LINKS = (
    " Then ",
    " Soon ",
    " A little later, ",
    " Before long, ",
    " After a while, ",
    " Suddenly ",
)
EVENINGS = (" At sunset ", " That night ", " In the evening ")
SIGHTS = (" It smelled of ", " They spoke about ", " A bird sang of ")
AIRS = (
    *("apples", "bread", "clover", "dew", "hay", "honey", "leaves", "mint", "moss", "pine", "rain"),
    *("roses", "smoke", "snow", "spring", "summer"),
)
JOYS = ("a bee", "a clown", "a cricket", "a king", "a lark", "a puppy", "a queen", "the sun")
PRAISES = (
    *("beautiful", "charming", "clever", "fine", "lovely", "marvellous", "perfect", "splendid"),
    *("strange", "sweet", "useful", "wonderful"),
)
SPOTS = ("under ", "beside ", "behind ", "near ", "on top of ")
SIZES = (
    *("the big ", "the broken ", "the dusty ", "the heavy ", "the low ", "the narrow "),
    *("the round ", "the warm ", "the wide ", "the wooden "),
)
FURNITURE = (
    *("armchair", "bath", "bed", "bench", "bookcase", "chest", "clock", "cupboard", "desk", "oven"),
    *("shelf", "stool", "table", "window"),
)
DREAMS = (
    *("deep caves", "dragons", "falling stars", "far lands", "flying fish", "giants"),
    *("green hills", "ice cream", "lost treasure", "new friends", "old songs", "paper boats"),
    *("sea shells", "talking trees", "tall ships", "warm bread"),
)
CLOSINGS = (" All slept well.", " The stars came out.", " What a day!", " The moon smiled.")
MOST_EVENTS = 5  # a tale stays short enough for a small model's context


def tell_tale(narrator: Narrator) -> Facts:
    """A tale: who there was, what was found, what happened to it, how the day ended."""
    trait, kind = describe(narrator)
    narrator.say(" called ")
    hero = Character(word(narrator, NAMES), trait, kind)
    narrator.say(f". {hero.she} lived ")
    home = word(narrator, HOMES)
    narrator.say(" and loved ")
    loves = word(narrator, LOVES)
    narrator.say(" and ")
    word(narrator, LOVES, [loves])
    narrator.say(". ")
    narrator.pick(FRIENDS)
    cast = [hero, befriend(narrator, [hero])]
    if narrator.pick(THIRDS + MORNINGS) < len(THIRDS):
        cast.append(befriend(narrator, cast))
        narrator.pick(MORNINGS)
    scene = Scene(narrator, cast)
    scene.find()
    link = LINKS[narrator.pick(LINKS)]
    while link in LINKS:
        scene.happen()
        going_on = len(scene.present) > 1 and scene.n_events < MOST_EVENTS
        links = [other for other in LINKS if other != link] if going_on else []
        link = word(narrator, [*EVENINGS, *links])
    scene.end()
    return Facts(
        form="tale",
        characters=tuple(cast),
        home=home,
        loves=loves,
        thing=scene.thing,
        holders=tuple(c.name for c in scene.holders),
        places=tuple(scene.places),
        away=tuple(scene.away),
    )


def describe(narrator: Narrator, used: Sequence[str] = ()) -> tuple[str, str]:
    """Pick a trait and a kind, such as "a shy" and " owl"; no kind that is `used`."""
    trait = bare(word(narrator, TRAITS))
    narrator.say(" ")
    return trait, word(narrator, KINDS, used)


def befriend(narrator: Narrator, cast: list[Character]) -> Character:
    """Pick somebody new, told as "Tom, a brave fox."."""
    name = word(narrator, NAMES, [c.name for c in cast])
    narrator.say(", ")
    trait, kind = describe(narrator, [c.kind for c in cast])
    wear(narrator)
    narrator.say(".")
    return Character(name, trait, kind)


def wear(narrator: Narrator) -> None:
    """Pick " in a green coat"."""
    narrator.say(" in ")
    narrator.pick(COLOURS)
    narrator.say(" ")
    narrator.pick(CLOTHES)


def groceries(narrator: Narrator) -> str:
    """Pick "three plums", and return "plums"."""
    narrator.pick(NUMBERS)
    narrator.say(" ")
    return word(narrator, FOODS)


class Scene:
    """The day of a tale: who is present, who has the thing, where everybody is."""

    def __init__(self, narrator: Narrator, cast: list[Character]):
        self.narrator, self.present = narrator, list(cast)
        self.away: list[tuple[str, str]] = []  # who left, and where to
        self.n_events = 0

    def find(self) -> None:
        """Somebody comes by a thing somewhere."""
        ways = ("found", "made", "bought", "won")
        options = [f"{c.name} {way} " for c in self.present for way in ways]
        self.holders = [self.present[self.narrator.pick(options) // len(ways)]]
        look = bare(word(self.narrator, LOOKS))
        self.narrator.say(" ")
        self.thing = f"{look} {word(self.narrator, THINGS)}"
        self.narrator.say(" ")
        self.places = [word(self.narrator, PLACES)]
        self.narrator.say(".")

    def happen(self) -> None:
        """One event: the thing changes hands, or nearly, or the friends move, or one leaves."""
        self.n_events += 1
        noun, holder = self.thing.split()[1], self.holders[-1]
        others = [c for c in self.present if c is not holder]
        events = {f"they {'all ' * (len(others) > 1)}went to ": (self.move, None)}
        for other in others:
            events |= {
                f"{holder.name} gave the {noun} to {other.name}.": (self.give, other),
                f"{holder.name} dropped the {noun}, and {other.name} picked it up.": (
                    self.give,
                    other,
                ),
                f"{other.name} asked nicely, and {holder.name} handed over the {noun}.": (
                    self.give,
                    other,
                ),
                f"{other.name} swapped ": (self.swap, other),
                f"{other.name} asked for the {noun}, but {holder.name} shook {holder.her} head.": (
                    self.wait,
                    other,
                ),
                f"{other.name} waved goodbye and went to ": (self.leave, other),
            }
        act, other = list(events.values())[self.narrator.pick(list(events))]
        act(other)

    def give(self, other: Character) -> None:
        """The thing changes hands, and its new holder is glad."""
        self.holders.append(other)
        way = self.narrator.pick(
            [
                f" {other.name} was as happy as ",
                ' "How ',
                f" {other.she} found it ",
            ]
        )
        self.narrator.pick(JOYS if way == 0 else PRAISES)
        self.narrator.say(f'!" cried {other.name}.' if way == 1 else ".")

    def swap(self, other: Character) -> None:
        """The thing changes hands for something good to eat."""
        food = groceries(self.narrator)
        self.narrator.say(f" for the {self.thing.split()[1]}.")
        giver = self.holders[-1].name
        self.narrator.pick(
            [
                f" {giver} ate the {food} at once.",
                f" {giver} liked the {food} very much.",
                f" They were very good {food}.",
                f" Never had there been such {food}.",
            ]
        )
        self.holders.append(other)

    def wait(self, other: Character) -> None:
        """Nothing changes hands; somebody minds, or does not."""
        self.narrator.pick(
            [
                f" {other.name} sighed.",
                f" {other.name} did not mind.",
                f' "Then maybe tomorrow," said {other.name}.',
                f" {other.she} asked again, but it was no use.",
            ]
        )

    def move(self, _: None) -> None:
        """Everybody present goes somewhere else."""
        self.places.append(self.elsewhere())
        self.sight()

    def sight(self) -> None:
        """What there is to smell, to hear or to talk about."""
        self.narrator.pick(SIGHTS)
        self.narrator.pick(AIRS)
        self.narrator.say(".")

    def leave(self, other: Character) -> None:
        """One friend goes away and stays there."""
        self.present.remove(other)
        self.away.append((other.name, self.elsewhere()))
        self.sight()

    def elsewhere(self) -> str:
        """Pick a place to go to, told as "the mill.", that is not where they are."""
        places = {f"{bare(p)}.": p for p in PLACES if p != self.places[-1]}
        return places[word(self.narrator, list(places))]

    def end(self) -> None:
        """The holder takes the thing home; whoever left is remembered."""
        holder = self.holders[-1]
        self.narrator.pick(
            [
                f"{holder.name} took the {self.thing} home and put it ",
                f"{holder.name} left {bare(self.places[-1])} and put the {self.thing} ",
                f"{holder.name} carried the {self.thing} home and kept it ",
            ]
        )
        self.narrator.pick(SPOTS)
        self.narrator.pick(SIZES)
        self.narrator.pick(FURNITURE)
        self.narrator.say(".")
        for name, place in self.away:
            self.narrator.pick([f" {name} was still {place}.", f" Back {place}, {name} yawned."])
        self.narrator.pick(CLOSINGS)
        self.narrator.say(f" {holder.name} dreamed of ")
        self.narrator.pick(DREAMS)
        self.narrator.say(".")


# ---------------------------------------------------------------- poems

POEM_OPENINGS = ("A little song about ", "A short poem about ")
# Each family is one rhyme; the star stands for the kind. Any two lines of a family make a couplet.
RHYMES = (
    (
        "The * is dancing in the light",
        "The stars are small and far and bright",
        "We wave the sleepy sun good night",
        "Our * has a paper kite",
        "The snow upon the roof is white",
        "A candle burns for our delight",
        "Soft shadows dance, but not from fright",
    ),
    (
        "The * is sleeping in the hay",
        "Come out, come out, come out and play",
        "See how the * runs away",
        "We sang and skipped the livelong day",
        "The little boats rock in the bay",
        "The * knows a secret way",
        "It is the very first of May",
    ),
    (
        "The * is sailing on the sea",
        "A nest is hidden in the tree",
        "Dear *, come and sit with me",
        "The wind is wild, the wind is free",
        "Our * bakes a cake for tea",
        "Around the roses hums a bee",
        "The hive is busy as can be",
    ),
    (
        "The * is gazing at the moon",
        "The roses bloom again in June",
        "Hush, little *, sleep comes soon",
        "We walk along and hum a tune",
        "The lazy clouds drift by at noon",
        "My * has a silver spoon",
        "The night is like a blue balloon",
    ),
    (
        "The * is strolling through the town",
        "The leaves are gold and red and brown",
        "Our * wears a paper crown",
        "The rain is softly falling down",
        "Today nobody wears a frown",
        "Who has a coat of eiderdown",
    ),
    (
        "The * likes to count the sheep",
        "The pond is cool, the pond is deep",
        "Good *, close your eyes and sleep",
        "Beneath the door the shadows creep",
        "A secret is a thing to keep",
        "From every nest the chicks all peep",
    ),
    (
        "The * has begun to sing",
        "The bells across the valley ring",
        "Each * loves the days of spring",
        "A robin rests a tired wing",
        "Who knows what gifts the wind will bring",
        "Up goes the swing upon its string",
    ),
    (
        "The * hops along the wall",
        "The mountains stand up blue and tall",
        "Small *, can you hear me call",
        "The apples ripen and they fall",
        "There is enough for one and all",
        "A drop of rain begins to fall",
    ),
)
REFRAINS = ("So it was, and so it is, ", "And that is all I saw ", "Sing it again some day ")


def tell_poem(narrator: Narrator) -> Facts:
    """Three rhymed couplets about somebody somewhere."""
    trait, kind = describe(narrator)
    wear(narrator)
    narrator.say(" ")
    place = word(narrator, PLACES)
    narrator.say(":\n")
    rhymes = [[line.replace("*", kind) for line in family] for family in RHYMES]
    for _ in range(3):
        first = word(narrator, [line for family in rhymes for line in family])
        family = next(family for family in rhymes if first in family)
        narrator.say(",\n")
        narrator.pick([line for line in family if line != first])
        narrator.say(".\n")
        rhymes.remove(family)
    narrator.pick(REFRAINS)
    narrator.say(f"{place}.")
    return Facts(form="poem", characters=(Character("", trait, kind),), places=(place,))


# ---------------------------------------------------------------- dialogues

DIALOGUE_OPENINGS = ('"Hello, ', '"Good morning, ')
QUESTIONS = ("What have you got there?", "What is that?", "What are you holding?")
WAYS = ("found it ", "bought it ", "won it ")
MOST_REQUESTS = 4


def tell_dialogue(narrator: Narrator, greeting: str) -> Facts:
    """Two friends talk about a thing that one of them has and the other would like."""
    name = word(narrator, NAMES)
    narrator.say('," said ')
    host = speaker(narrator, word(narrator, NAMES, [name]))
    narrator.say('. "What a ')
    narrator.pick(PRAISES)
    narrator.say(" ")
    narrator.pick(CLOTHES)
    narrator.say(f'!"\n{greeting}{host.name}," said {name}')
    guest = speaker(narrator, name, [host.kind])
    narrator.say('. "')
    narrator.pick(QUESTIONS)
    narrator.say('"\n"It is ')
    look = bare(word(narrator, LOOKS))
    narrator.say(" ")
    noun = word(narrator, THINGS)
    narrator.say(f'," said {host.name}. "I ')
    narrator.pick(WAYS)
    place = word(narrator, PLACES)
    narrator.say('."\n')
    holders = bargain(narrator, [host], guest, noun)
    other = guest if holders[-1] is host else host
    narrator.say(f"So {holders[-1].name} went home with the {look} {noun}, and {other.name} began ")
    narrator.pick(LOVES)
    narrator.say(".")
    return Facts(
        form="dialogue",
        characters=(host, guest),
        thing=f"{look} {noun}",
        holders=tuple(c.name for c in holders),
        places=(place,),
    )


def speaker(narrator: Narrator, name: str, used: Sequence[str] = ()) -> Character:
    """Pick "the shy owl" for the one who speaks."""
    narrator.say(" the ")
    trait = TRAITS[narrator.pick([bare(t) for t in TRAITS])]
    narrator.say(" ")
    return Character(name, bare(trait), word(narrator, KINDS, used))


def bargain(
    narrator: Narrator, holders: list[Character], other: Character, noun: str
) -> list[Character]:
    """Requests and answers, until one of the two has to go; returns all holders in order."""
    for n_requests in range(MOST_REQUESTS + 1):
        holder = holders[-1]
        farewells = [
            f'"It is getting late," said {holder.name}.\n',
            f'"I must go now," said {other.name}.\n',
            f'"Look, the moon is up," said {other.name}.\n',
        ]
        requests = [
            f'"May I have it?" asked {other.name}.\n',
            f'"Please give me the {noun}," said {other.name}.\n',
            f'"I would love the {noun}," said {other.name}.\n',
            '"I will give you ',
        ]
        first, last = n_requests == 0, n_requests == MOST_REQUESTS
        options = ([] if first else farewells) + ([] if last else requests)
        chosen = options[narrator.pick(options)]
        if chosen in farewells:
            break
        if chosen == requests[-1]:
            groceries(narrator)
            narrator.say(f' for it," said {other.name}.\n')
        yes = [
            f'"Yes, take it," said {holder.name}.\n',
            f'"Of course," said {holder.name}. "It is yours now."\n',
            f'"Here you are," said {holder.name}.\n',
        ]
        no = [
            f'"No, I need it," said {holder.name}.\n',
            f'"Not today," said {holder.name}.\n',
            f'"Sorry, it is not for you," said {holder.name}.\n',
        ]
        if narrator.pick(yes + no) < len(yes):
            holders, other = [*holders, other], holder
    return holders
