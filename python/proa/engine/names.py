"""Names for containers whose owner gave none: adjective_surname, the surnames of people of science."""

import secrets

_ADJECTIVES = """
    able agile airy amber apt bold brave breezy bright brisk calm candid clear clever cosy crisp daring
    deft eager early easy fair fleet fond frank free fresh gentle glad golden grand happy hardy hearty honest
    humble ideal jolly joyful keen kind lively loyal lucid lucky mellow merry mighty modest neat nimble noble
    open patient placid polite proud quick quiet rapid ready sharp shiny silent sleek smart smooth snappy
    solid spry stable steady stoic sunny sure swift tidy tranquil trusty upbeat vivid warm wise witty zesty"""

_SURNAMES = """
    abel agnesi alhazen ampere archimedes avogadro babbage bell bernoulli bohr boole borg bose brahe cantor
    carson cavendish cerf chandrasekhar clarke copernicus coulomb curie dalton darwin dijkstra dirac einstein
    erdos euclid euler faraday fermat fermi feynman fibonacci fourier franklin galileo galois gauss germain
    goodall hamilton hawking heisenberg herschel hertz hilbert hooke hopper hubble huygens hypatia jemison
    johnson joule kalam kepler khayyam knuth kovalevskaya lagrange lamarr laplace leavitt leibniz lovelace
    lumiere mach maxwell mayer meitner mendel mendeleev mirzakhani moser nash newton nobel noether ohm pascal
    pasteur pauling planck poincare ptolemy raman ramanujan rhodes ride riemann ritchie rubin sagan
    schrodinger shannon sinoussi snyder tesla thompson torvalds turing volta watt wiles wright wu yalow"""


ADJECTIVES = tuple(_ADJECTIVES.split())
SURNAMES = tuple(_SURNAMES.split())


def generate(attempt: int = 0) -> str:
    """A name at random; from the second attempt on with a digit, since the first was taken."""
    name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(SURNAMES)}"
    return f"{name}{secrets.randbelow(10)}" if attempt else name
